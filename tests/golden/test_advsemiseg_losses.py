import pytest
from conftest import close, golden, golden_cases, tensor

from paddleseg_semi.losses.masked import masked_bce_with_logits, masked_cross_entropy

FILES = 'advsemiseg_losses*.npz'


def kept(case):
    return tensor((case['target'] >= 0) & (case['target'] != case['ignore_index']))


@pytest.mark.parametrize('case', golden_cases(FILES, 'ce', 'num_ce'))
@pytest.mark.parametrize('weighted', [False, True])
def test_cross_entropy(case, weighted):
    logits = tensor(case['logits'], grad=True)
    weight = tensor(case['class_weight'].astype('float32')) if weighted else None
    loss = masked_cross_entropy(logits, tensor(case['target']), kept(case), weight)
    loss.backward()
    close(loss, case['wloss' if weighted else 'loss'])
    close(logits.grad, case['wgrad' if weighted else 'grad'])


@pytest.mark.parametrize('case', golden_cases(FILES, 'bce', 'num_bce'))
def test_bce(case):
    logits = tensor(case['logits'], grad=True)
    loss = masked_bce_with_logits(logits, tensor(case['target']), kept(case))
    loss.backward()
    close(loss, case['loss'])
    close(logits.grad, case['grad'])


@pytest.mark.parametrize('name, file', golden(FILES))
@pytest.mark.parametrize('kind, function', [('ce', masked_cross_entropy), ('bce', masked_bce_with_logits)])
def test_all_ignored(name, file, kind, function):
    start = f'{kind}_allign_'
    case = {**file, **{key[len(start):]: array for key, array in file.items() if key.startswith(start)}}
    logits = tensor(case['logits'], grad=True)
    loss = function(logits, tensor(case['target']), kept(case))
    loss.backward()
    close(loss, case['loss'], atol=0)
    close(logits.grad, case['grad'], atol=0)
