"""The page of a run: what the files say stands in it, and nothing in them is more than text."""

import json

import pytest

from paddleseg_semi.core import page
from paddleseg_semi.errors import InputError

LOG = '''[INFO]\t[TRAIN] epoch: 1, iter: 10/40, loss: 0.5000, sup: 0.4000, s1: 0.1000, kept: 0.3000, lr: 4.9e-4, b
[INFO]\t[TRAIN] epoch: 1, iter: 20/40, loss: 0.9000, sup: 0.8000, s1: 0.1000, kept: 0.4000, lr: 4.9e-4, b
[INFO]\t[TRAIN] epoch: 1, iter: 20/40, loss: 0.2500, sup: 0.2000, s1: 0.0500, kept: 0.4000, lr: 4.8e-4, b
[INFO]\t[PSEUDO] #Crops: 32 kept: 0.5000 conf: 0.8000
[INFO]\t[PSEUDO] Class share: ground 0.9800, <b>cow 0.0010
[INFO]\t[LABELED] Class share: ground 0.9500, <b>cow 0.0500
[INFO]\t[PSEUDO] Forgotten, hardly any kept pseudo label is of: <b>cow (0.10 %, of the masks 5.00 %).
'''
EVAL = ('iter,network,mIoU,Acc,IoU/ground,IoU/<b>cow\n20,model,0.4,0.9,0.8,0.0\n40,model,{last},0.9,0.7,0.1\n'
        '40,ema,0.5,0.9,0.7,0.3\n')
HOSTILE = '<script>alert(1)</script>'


def make(folder, last=0.3):
    (folder / 'split').mkdir(parents=True)
    (folder / 'train.log').write_text(LOG)
    (folder / 'eval.csv').write_text(EVAL.format(last=last))
    (folder / 'split/split.yml').write_text('labeled: 7\nunlabeled: 100\n')
    (folder / 'config.yml').write_text(f'method: {{type: FixMatch}}\nclass_names: ["{HOSTILE}"]\n')
    (folder / 'val.json').write_text(json.dumps({
        'classes': [{'name': 'ground'}, {'name': HOSTILE}], 'confusion_matrix': [[75, 25], [0, 0]]}))
    return str(folder)


def test_a_run(tmp_path):
    run = page.Run(make(tmp_path / 'mine'))
    assert run.terms['loss'] == [(10, 0.5), (20, 0.25)], 'what a resumed run has done again counts'
    assert run.statistics['kept'] == [(10, 0.3), (20, 0.4)] and run.pseudo['conf'] == [(20, 0.8)]
    assert run.best['mIoU'] == '0.4' and run.last['mIoU'] == '0.3'
    page.write([run.folder], str(tmp_path / 'page.html'))
    text = (tmp_path / 'page.html').read_text()
    for word in ('FixMatch', '>7<', '>100<', '0.4000', '0.3000', '&lt;b&gt;cow', 'being forgotten', '75.0', '<svg'):
        assert word in text, word
    assert HOSTILE not in text and '<b>' not in text and 'http://www.w3.org' in text
    assert 'src="http' not in text and 'href="http' not in text, 'it needs no network'


def test_several_runs(tmp_path):
    page.write([make(tmp_path / 'one'), make(tmp_path / 'two', 0.35)], str(tmp_path / 'page.html'))
    text = (tmp_path / 'page.html').read_text()
    assert '+0.0500' in text and 'last against one' in text


@pytest.mark.parametrize('name, content', [
    ('eval.csv', 'iter,network\n\0\n1'), ('eval.csv', 'iter,network,mIoU\nx,model,y\n'), ('val.json', '{"classes": 3}'),
    ('val.json', '[' * 100000), ('config.yml', '!!python/object/apply:os.system [true]'), ('config.yml', 'method: 3'),
    ('split/split.yml', '- 1'), ('train.log', '[TRAIN] iter: 5/')])
def test_files_that_make_no_sense(tmp_path, name, content):
    folder = make(tmp_path / 'mine')
    (tmp_path / 'mine' / name).write_text(content)
    page.write([folder], str(tmp_path / 'page.html'))
    assert (tmp_path / 'page.html').stat().st_size > 1000


def test_no_run(tmp_path):
    with pytest.raises(InputError, match='has no train.log'):
        page.write([str(tmp_path)], str(tmp_path / 'page.html'))
