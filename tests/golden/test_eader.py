"""Attention maps, erasing, turns, whole steps and segmentations of EADER."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, golden_cases, tensor
from paddle import nn
from paddleseg.datasets import Dataset
from PIL import Image
from procedural import procedural

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.core.trainer import Plan, Player, Trainer
from paddleseg_semi.datasets.tags import read_tags
from paddleseg_semi.losses.erasing import erase, mining
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.eader import EADER
from paddleseg_semi.models.camnet import CAMNet, score_planes, stretch
from paddleseg_semi.models.tap import Tap
from paddleseg_semi.models.vgg16 import VGG16_LargeFOV

MODES = {'adversarial': {}, 'alone': {}, 'shared': {'share_weights': True, 'reference_quirks': True}}


def only(file, prefix):
    """The arrays of a file whose names begin with `prefix`, without it."""
    return {key[len(prefix):]: array for key, array in file.items() if key.startswith(prefix)}


class Trunk(nn.Layer):
    """Convolutions with ReLU: the feature layer of the golden toy networks."""

    def __init__(self, *widths, name='features'):
        super().__init__()
        layers = [layer for sides in zip((3, *widths), widths)
                  for layer in (nn.Conv2D(*sides, 3, stride=2, padding=1), nn.ReLU())]
        self.feat_channels, self.name = list(widths), name
        self.add_sublayer(name, nn.Sequential(*layers))

    def forward(self, x):
        return [getattr(self, self.name)(x)]


RENAMED = {'head.0': 'hidden.0', 'head.2': 'fc', 'classifier': 'fc', 'fc': 'fc'}


def ours(name):
    """The name of a parameter of a toy network in a CAMNet."""
    layer, _, kind = name.rpartition('.')
    return f'{RENAMED.get(layer, f"backbone.{layer}")}.{kind}'


def values(name, array):
    return array.T if array.ndim == 2 else array


def fill(net, weights):
    net.set_state_dict({ours(name): values(name, array) for name, array in weights.items()})
    assert set(map(ours, weights)) == set(net.state_dict())
    return net


def toy(weights, attention='gcam'):
    """A CAMNet with the weights of a toy network of the authors' test."""
    convs = [array for array in weights.values() if array.ndim == 4]
    linears = [array for array in weights.values() if array.ndim == 2]
    trunk = Trunk(*(len(array) for array in convs), name=next(iter(weights)).split('.')[0])
    pool_size = round((linears[0].shape[1] / len(convs[-1])) ** 0.5)
    return fill(CAMNet(len(linears[-1]) + 1, trunk, attention, pool_size=pool_size,
                       hidden=[len(array) for array in linears[:-1]], dropout=0.), weights)


def attention(net, img, tags):
    """Maps [n, 1, H, W], images [n] and classes [n] of all tags, as the method makes them."""
    present = paddle.nonzero(tags)
    logits, maps = net.classify(img)
    return F.sigmoid(logits), stretch(maps.gather_nd(present).unsqueeze(1), img.shape[2:]), present.numpy()


def order(image, target, present):
    """The place in `present` (ours goes image by image) of each of the golden maps."""
    rows = {tuple(pair): k for k, pair in enumerate(present.tolist())}
    return [rows[pair] for pair in zip(image.tolist(), target.tolist())]


def attention_cases():
    for name, file in golden('eader_attention*.npz'):
        for kind in ('gap_gcam', 'gap_cam', 'mlp_gcam'):
            for k in range(int(file['count'])):
                case = {**only(file, f'in{k}_'), **only(file, f'{kind}{k}_'),
                        'weights': only(file, f'{kind.split("_")[0]}_w_')}
                yield pytest.param(kind.split('_')[1], case, id=f'{name}-{kind}-{k}')


@pytest.mark.parametrize('kind, case', list(attention_cases()))
def test_attention(kind, case):
    net = toy(case['weights'], kind)
    net.train()
    prob, maps, present = attention(net, tensor(case['images']), tensor(case['labels']))
    rows = order(case['image_index'], case['target'], present)
    assert sorted(rows) == list(range(len(present)))
    assert np.array_equal(case['labels'][present[rows, 0]], case['label_rows'])
    close(prob.numpy(), case['prob'])
    close(maps.numpy()[rows], case['maps'])

    (maps ** 2).sum().backward()
    grads = dict(net.named_parameters())
    for name, wanted in only(case, 'grad_').items():
        grad = grads[ours(name)].grad
        found = np.zeros_like(wanted) if grad is None else values(name, grad.numpy())
        close(found, wanted, rtol=1e-4, atol=1e-4 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize('name, case', golden('eader_mask*.npz'))
def test_erasing(name, case):
    maps = tensor(case['attention'], grad=True)
    erased, mask = erase(tensor(case['image']), maps)
    close(mask.numpy(), case['mask'])
    close(erased.numpy(), case['erased'])
    close(erase(tensor(case['image']), maps, 20, 0.3)[1].numpy(), case['mask_omega20_sigma03'])
    ramp = np.linspace(-1, 1, case['image'].size, dtype='float32').reshape(case['image'].shape)
    (erased * tensor(ramp)).sum().backward()
    close(maps.grad.numpy(), case['grad_attention_of_ramp'], atol=1e-5 * np.abs(case['grad_attention_of_ramp']).max())


@pytest.mark.parametrize('name, case', golden('eader_mask*.npz'))
def test_terms(name, case):
    prob, maps = tensor(case['am_prob'], grad=True), tensor(case['attention'], grad=True)
    loss = mining(prob, tensor(case['am_target']))
    close(loss.item(), case['am_loss'], rtol=1e-5)
    loss.backward()
    close(prob.grad.numpy(), case['am_grad'])
    reg = maps.mean()
    close(reg.item(), case['reg_loss'], rtol=1e-5)
    reg.backward()
    close(maps.grad.numpy(), case['reg_grad'])


def build(localizer, adversary=None, **knobs):
    """The method with given networks."""
    task = Task(lambda: localizer, {'types': [], 'coef': []}, len(localizer.fc.bias) + 1)
    method = EADER(task, adversary and adversary.backbone, **knobs)
    if adversary is not None:
        method.adversary.set_state_dict(adversary.state_dict())
    return method


@pytest.mark.parametrize('alone', [False, True])
@pytest.mark.parametrize('name, file', golden('eader_phase*.npz'))
def test_turns(name, file, alone):
    for k, (_, localizer, adversary) in enumerate(file['settings_len_loc_adv'].tolist()):
        backbone = None if alone else CAMNet(3, Trunk(2))
        method = build(CAMNet(3, Trunk(2)), backbone, steps_localizer=localizer, steps_adversary=adversary)
        wanted = file[f's{k}_alone' if alone else f's{k}_both']
        clock = Clock(len(wanted))
        for flags in wanted.tolist():
            turn = method.adversary_trains(clock)
            assert [not turn, turn] == [bool(flag) for flag in flags]
            clock.tick()


def flat(net, names):
    """All parameters in the golden order."""
    params = net.state_dict()
    return np.concatenate([values(name, params[ours(str(name))].numpy()).ravel() for name in names])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name, file', golden('eader_step*.npz'))
def test_steps(name, file, mode):
    """Every loss and every weight; exactly one of the two players moves."""
    adversary = toy(only(file, 'adv_w_')) if mode == 'adversarial' else None
    turns = dict(zip(('steps_localizer', 'steps_adversary'), file['train_steps_loc_adv'].tolist()))
    method = build(toy(only(file, 'loc_w_')), adversary, am_weight=float(file['alpha']),
                   reg_weight=float(file['beta']), **turns,
                   **MODES[mode])
    rate = float(file['lr'])
    players = {key: Player(layer, paddle.optimizer.Momentum(rate, 0.9, layer.parameters(), weight_decay=1e-4),
                           paddle.optimizer.lr.MultiStepDecay(rate, [])) for key, layer in method.players().items()}
    assert ('adversary' in players) == (mode == 'adversarial')
    clock = Clock(len(file[f'{mode}_loss']))
    trainer = Trainer(method, {}, players, clock, None, None, Plan())
    method.train()
    for step in range(clock.iters):
        k = step % len(file['images'])
        losses, _ = trainer.step({'tagged': {'img': tensor(file['images'][k]), 'tags': tensor(file['labels'][k])}})
        close(sum(losses.values()).item(), file[f'{mode}_loss'][step])
        close(flat(method.model, file['parameter_order_loc']), file[f'{mode}_localizer_after'][step])
        if adversary is not None:
            close(flat(method.adversary, file['parameter_order_adv']), file[f'{mode}_adversarial_after'][step])


@pytest.mark.parametrize('case', golden_cases('eader_segmap*.npz', 's', 'count'))
def test_segmentation(case):
    size, target = case['shape'].tolist(), case['target'].tolist()
    found = F.interpolate(tensor(case['attention']), size, mode='bilinear').squeeze(1)
    maps = paddle.zeros([1, max(target) + 1, *size])
    for row, number in enumerate(target):
        maps[0, number] = found[row]
    for name, wanted in only(case, 'map_t').items():
        assert np.array_equal(score_planes(maps, int(name) / 10).argmax(1).numpy(), wanted)


@pytest.mark.parametrize('name, case', golden('eader_targets*.npz'))
def test_tags(name, case, tmp_path):
    """Of whole masks, void left out."""
    masks, num_classes = [case['map'], case['single_map']], len(case['multi_hot']) + 1
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / f'{k}.png')
        Image.fromarray(mask).save(tmp_path / f'{k}.jpg')
    (tmp_path / 'train.txt').write_text(''.join(f'{k}.jpg {k}.png\n' for k in range(len(masks))))
    base = Dataset('train', str(tmp_path), [], num_classes, train_path=str(tmp_path / 'train.txt'))
    assert np.array_equal(read_tags('masks', base), [case['multi_hot'], case['single_multi_hot']])
    assert np.array_equal(case['multi_hot'], case['multi_hot_only'])


def foreground(result):
    return result.miou, result.class_precision[1:].mean(), result.class_recall[1:].mean()


@pytest.mark.parametrize('name, case', golden('eader_metrics*.npz'))
def test_metrics(name, case):
    """One figure differs on purpose: a class without pixels scores 0 here in all three."""
    num_classes, matrix = len(case['union']), 0
    for pred, label, wanted in zip(case['prediction'], case['target'], case['running_miou_precision_recall']):
        matrix = matrix + confusion_matrix(tensor(pred), tensor(label.astype('int64')), num_classes)
        close(foreground(scores(matrix)), wanted, rtol=1e-6, atol=1e-6)
    counts = matrix.numpy()
    assert np.array_equal(counts.diagonal(), case['intersection'])
    assert np.array_equal((counts.sum(0) + counts.sum(1) - counts.diagonal()), case['union'])
    assert np.array_equal(counts.sum(1)[1:], case['gt_pixels'][1:])
    assert np.array_equal(counts.sum(0)[1:], case['predicted_pixels'][1:])
    close(scores(matrix).class_iou, case['iou_per_class'])


@pytest.mark.parametrize('name, file', golden('eader_validate*.npz'))
@paddle.no_grad()
def test_validation(name, file):
    net = toy(only(file, 'w_'))
    net.eval()
    num_classes, matrix, losses = len(net.fc.bias) + 1, 0, []
    for k in range(int(file['count'])):
        label = file[f'v{k}_map_with_void'].astype('int64')
        tags = tensor(np.isin(np.arange(1, num_classes), label).astype('float32')[None])
        logits, maps = net.attend(tensor(file[f'v{k}_image']))
        losses.append(F.binary_cross_entropy_with_logits(logits, tags).item())
        pred = score_planes(maps * tags.unsqueeze([2, 3]), 0.3).argmax(1)
        assert np.array_equal(pred.numpy(), file[f'v{k}_predicted'])
        matrix = matrix + confusion_matrix(pred, tensor(label), num_classes)
    close(np.mean(losses), file['validation_localizer_loss'])
    close(foreground(scores(matrix)), [file[key] for key in ('miou', 'precision', 'recall')], rtol=1e-6)


@pytest.mark.parametrize('name, case', golden('eader_vgg*.npz'))
@paddle.no_grad()
def test_large_fov(name, case):
    net = CAMNet(case['prob'].shape[1] + 1, VGG16_LargeFOV())
    shapes = {key: param.shape[::-1] if param.ndim == 2 else param.shape for key, param in net.state_dict().items()}
    fill(net, {str(name): procedural(str(name), shapes[ours(str(name))]) for name in case['tensor_names']})
    net.eval()
    with Tap(net, 'backbone', 'output') as tap:
        logits, maps = net.attend(tensor(case['image']))
    feature = tap.value[-1].numpy()
    assert feature.shape == tuple(case['features_shape'])
    height, width = feature.shape[2:]
    close(feature.mean((2, 3)), case['features_mean'])
    close(feature[:, :, height // 2, width // 2], case['features_centre'])
    close(logits.numpy(), case['logit'])
    close(F.sigmoid(logits).numpy(), case['prob'])
    assert np.flatnonzero(case['labels'][0]).tolist() == case['target'].tolist()
    close(maps.numpy()[0, case['target'], None], case['maps'], atol=1e-4)
