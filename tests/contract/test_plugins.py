"""Components of a user's own file: on the command line only."""

import textwrap

import pytest

from .conftest import HALF, ROOT, TRAIN

MINE = '''
from paddleseg_semi.methods.base import Method
from paddleseg_semi.registries import METHODS

@METHODS.add_component
class Mine(Method):
    """Mean of what it says of unlabeled images; a method in ten lines."""

    def semi_step(self, batch, clock):
        unlabeled = batch['unlabeled']
        pseudo = self.pseudo_label(unlabeled['weak'], unlabeled['valid'])
        return {'sup': self.supervised(batch['labeled']),
                'unsup': pseudo.loss(self.model(unlabeled['weak'])[0], 0.)}, {'kept': pseudo.kept(pseudo.sure(0.))}
'''


@pytest.fixture
def mine(toy):
    (toy.folder / 'mine.py').write_text(textwrap.dedent(MINE) + f'\nopen({str(toy.folder / "ran")!r}, "w").close()\n')
    toy.recipe['method'] = {'type': 'Mine'}
    toy.recipe['import'] = 'mine.py'
    return toy


def test_a_recipe_alone_executes_nothing(mine, refused):
    refused(*HALF, says=['import: it needs the components of mine.py', 'add --import mine.py'])
    assert not (mine.folder / 'ran').exists()


def test_with_the_flag_it_trains(mine):
    assert mine.finish(TRAIN, *mine.flags(*HALF, '--iters', 2, '--import', 'mine.py'))[0] == 0
    assert (mine.folder / 'ran').exists()
    code, _, err = mine.finish(TRAIN, *mine.flags(*HALF, '--iters', 2, '--resume_model', 'latest'))
    assert code == 2 and 'add --import mine.py' in err


@pytest.mark.parametrize('name, content, says', [
    ('no.py', None, 'give the path of a Python file'), ('mine.txt', '', 'give the path of a Python file'),
    ('broken.py', 'raise ValueError("why")', 'ValueError: why'), ('broken.py', 'def', 'SyntaxError')])
def test_files_that_are_none(toy, refused, name, content, says):
    if content is not None:
        (toy.folder / name).write_text(content)
    refused('--import', name, says=[f'--import {name}', says])


def test_paddleseg_trains_with_our_components(toy):
    """Its own train(), in a program of five lines."""
    toy.recipe.pop('method')
    toy.recipe['train_dataset']['transforms'].insert(2, {'type': 'ColorJitter'})
    toy.flags()
    code, _, err = toy.finish('-c', textwrap.dedent(f'''
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import paddleseg_semi
        paddleseg_semi.register()
        import paddle
        from paddleseg.core import train
        from paddleseg.cvlibs import Config, SegBuilder
        paddle.set_device('cpu')
        builder = SegBuilder(Config('recipe.yml'))
        train(builder.model, builder.train_dataset, optimizer=builder.optimizer, losses=builder.loss, save_dir='run',
              iters=1, batch_size=2)  # its log lines fail under Paddle 3
    '''))
    assert code == 0, err[-2000:]
    assert (toy.folder / 'run/iter_1/model.pdparams').is_file()
