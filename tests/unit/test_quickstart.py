"""tools/quickstart.sh and the environment it makes, with a stand-in interpreter that writes down its commands."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# A command that contains $FAIL fails. `python -m venv FOLDER` makes an environment with this same interpreter.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *importlib.metadata*) echo "${BUILD:-cpu}"; exit 0 ;;
    "-c "* | --version) exit 0 ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
echo "$*" >> commands.txt
if [ -n "$FAIL" ] && [[ "$*" == *$FAIL* ]]; then exit 3; fi
"""
STEPS = ['make_demo_data.py', 'train.py', 'train.py', *2 * ['val.py', 'export.py', 'infer.py'], 'compare.py']


@pytest.fixture
def quickstart(tmp_path):
    shutil.copytree(REPOSITORY / 'tools', tmp_path / 'tools', ignore=shutil.ignore_patterns('*.py', '__pycache__'))
    for name in ('requirements.txt', 'requirements-gpu.txt', 'setup.py'):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)

    def run(**environment):
        variables = {'PATH': os.environ['PATH'], 'PYTHON': str(tmp_path / 'python'), **environment}
        done = subprocess.run(['bash', 'tools/quickstart.sh'], cwd=tmp_path, env=variables, capture_output=True,
                              text=True)
        recorded = tmp_path / 'commands.txt'
        done.commands = recorded.read_text().splitlines() if recorded.exists() else []
        done.scripts = [Path(command.split()[0]).name for command in done.commands if not command.startswith('-m ')]
        recorded.unlink(missing_ok=True)
        return done

    run.folder = tmp_path
    return run


def test_every_step_runs_once(quickstart):
    done = quickstart()
    assert done.returncode == 0, done.stderr
    assert done.commands[0] == '-m venv .venv' and '-m pip install' in done.commands[1]
    assert done.scripts == STEPS
    labeled_only, semi = (command for command in done.commands if 'train.py' in command)
    assert re.sub(r'--(method|save_dir) \S+', '', labeled_only) == re.sub(r'--(method|save_dir) \S+', '', semi)
    assert '--method Supervised' in labeled_only and '--method UniMatch' in semi
    again = quickstart()
    assert again.scripts == ['compare.py'] and len(again.commands) == 1, 'finished steps and pip are skipped'


def test_an_interrupted_training_continues(quickstart):
    broken = quickstart(FAIL='--method UniMatch')
    assert broken.returncode != 0
    assert broken.scripts == STEPS[:3]
    (quickstart.folder / 'output/quick_start/semi/iter_200').mkdir(parents=True)
    done = quickstart()
    assert done.scripts == STEPS[2:]
    assert done.commands[0].endswith('--resume_model latest')


def test_changed_requirements_are_installed(quickstart):
    quickstart()
    with open(quickstart.folder / 'requirements.txt', 'a') as file:
        file.write('one-more\n')
    assert '-m pip install' in quickstart().commands[0]


def test_a_gpu_build_is_not_replaced(quickstart):
    assert '-r requirements.txt' in quickstart().commands[1]
    assert '-r requirements-gpu.txt' in quickstart(BUILD='gpu').commands[0]


def test_failed_installation_is_tried_again(quickstart):
    broken = quickstart(FAIL='pip install')
    assert broken.returncode != 0 and 'could not install' in broken.stderr and not broken.scripts
    assert quickstart().scripts == STEPS


def test_no_python(quickstart):
    done = quickstart(PYTHON='/no/such/python')
    assert done.returncode == 2
    assert done.stderr.startswith('No Python 3.10, 3.11 or 3.12 found (PYTHON=/no/such/python)')
    assert not (quickstart.folder / '.venv').exists()
