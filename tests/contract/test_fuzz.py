"""Recipes, lists, checkpoints and deploy.yaml with something changed at random. Which changes depends on the commit;
PADDLESEG_SEMI_FUZZ_SEED in the environment gives those of another one, and benchmarks/fuzz.py runs more of them."""

import random

import pytest
import yaml

from . import fuzzing
from .mutations import mutated

CASES = 50


@pytest.fixture(scope='module')
def fuzzer(tmp_path_factory):
    seed = fuzzing.seed_of()
    print(f'seed: {seed}')
    return fuzzing.Fuzzer(tmp_path_factory.mktemp('fuzz'), seed)


@pytest.mark.parametrize('kind', fuzzing.KINDS)
def test_whatever_is_changed_is_used_or_refused(fuzzer, kind):
    """In one line, before anything is written. The name of a case that is not: benchmarks/fuzz.py --case runs it."""
    ends = [fuzzer.run(kind, number)[0] for number in range(CASES)]
    print(f'{kind}: {sum(code == 0 for code in ends)} of {CASES} cases did their work')
    assert {0, 2} & {*ends}


def test_most_changes_leave_yaml_valid():
    """Of what a tool reads as YAML, not of what it takes for a recipe."""
    for number in range(20):
        content, _ = mutated(random.Random(number), {'a': [1, {'b': 'c'}], 'd': 0.5}, times=3)
        yaml.safe_load(yaml.safe_dump(content))


def test_a_case_that_ends_as_none_may_is_found(fuzzer, monkeypatch):
    """What is planted: an exception, a second line, something left behind, another exit code, something executed."""
    folder = fuzzer.folder / 'case'
    written, run_dir = folder / 'elsewhere', folder / 'run'

    def planted(code, lines, *paths):
        def call(*_):
            for path in paths:
                path.mkdir()
            return code, ''.join(f'train.py: {n}\n' for n in range(lines))
        return call

    for call, says in [(planted(2, 2), 'not one line'), (planted(2, 0), 'not one line'), (planted(3, 1), 'exit code 3'),
                       (planted(2, 1, run_dir), 'behind'), (planted(0, 0, written), 'wrote'),
                       (planted(0, 0, run_dir, run_dir / fuzzing.MARK), 'executed')]:
        monkeypatch.setattr(fuzzing, '_call', call)
        with pytest.raises(fuzzing.Broken, match=says):
            fuzzer.run('recipes', 0)
    monkeypatch.setattr(fuzzing, '_call', planted(2, 1))
    assert fuzzer.run('recipes', 0)[0] == 2


def test_an_exception_of_a_tool_is_found(fuzzer, monkeypatch):
    monkeypatch.setattr('paddleseg_semi.run.train', lambda *_: 1 / 0)
    monkeypatch.setattr('paddleseg_semi.cvlibs.SemiConfig', lambda *_, **__: 1 / 0)
    with pytest.raises(fuzzing.Broken, match='ZeroDivisionError'):
        fuzzer.run('recipes', 0)
