"""What the whole tree promises: arrows between packages, recipes that load, tools that answer."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / 'paddleseg_semi'
SOURCES = sorted(PACKAGE.rglob('*.py'))
YAMLS = [path for folder in ('configs', 'test_tipc/configs') for path in sorted((REPOSITORY / folder).rglob('*.yml'))]
PIPELINES = [path for path in YAMLS if {'stages', 'defaults'} & yaml.safe_load(path.read_text()).keys()]
RECIPES = [path for path in YAMLS if '_base_' not in path.parts and path not in PIPELINES]
TOOLS = [path for path in sorted((REPOSITORY / 'tools').glob('*.py')) if path.name != 'cli.py']
TOOLS += [REPOSITORY / 'deploy' / path for path in ('python/infer.py', 'serving/server.py', 'serving/client.py')]

# Which parts of the package each part may import, besides itself. The longest name that fits a module counts.
FLOOR = {'errors', 'safe', 'files', 'images', 'ranges', 'runtime', 'registries'}
MAY_IMPORT = {
    'errors': set(),
    'safe': {'errors', 'files'},
    'files': set(),
    'images': {'errors'},
    'ranges': {'errors'},
    'runtime': {'errors'},
    'registries': set(),
    'components': {'compat', 'datasets', 'losses', 'methods', 'models', 'stages', 'transforms'},
    'plugins': {'errors'},
    'compat': FLOOR | {'models.weights', 'models.fetch'},
    'losses': FLOOR,
    'transforms': FLOOR,
    'models': FLOOR,
    'datasets': FLOOR | {'transforms'},
    'methods': FLOOR | {'datasets.streams', 'models', 'losses', 'transforms'},
    'core': FLOOR | {'datasets', 'models'},
    'deploy': FLOOR | {'core.common', 'core.palette', 'core.testing', 'transforms'},
    'cvlibs': FLOOR | {'plugins', 'datasets', 'models', 'core', 'methods.base'},
    'run': FLOOR | {'datasets', 'models', 'core', 'cvlibs'},
    'stages': FLOOR | {'datasets', 'core', 'cvlibs', 'run'},
}


def relative(path):
    return str(path.relative_to(REPOSITORY))


def module_name(path):
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('.__init__')


def imports(path):
    """Full names of all that a file imports, top level first, then in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{relative(path)}:{node.lineno}: write imports in full'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def part(module, parts):
    """The longest of `parts` that a module lies in, or None."""
    return max((p for p in parts if f'{module}.'.startswith(f'{p}.')), key=len, default=None)


@pytest.mark.parametrize('path', [path for path in SOURCES if path.parent != PACKAGE or path.name != '__init__.py'],
                         ids=module_name)
def test_imports_point_one_way(path):
    own = part(module_name(path), MAY_IMPORT)
    assert own, f'{relative(path)}: say in MAY_IMPORT what it may import'
    for name in imports(path):
        if name.startswith('paddleseg_semi.'):
            target = name.removeprefix('paddleseg_semi.')
            assert part(target, {own, *MAY_IMPORT[own]}), \
                f'{relative(path)} imports {name}: {own} may import {sorted(MAY_IMPORT[own])}'
        elif own in ('losses', 'transforms') and name.startswith('paddleseg.'):
            assert name.startswith('paddleseg.cvlibs'), f'{relative(path)} imports {name}: of PaddleSeg, the registries'
        assert not name.startswith(('torch', 'tools', 'cli.')), f'{relative(path)} imports {name}'


@pytest.mark.parametrize('path', [PACKAGE / '__init__.py', REPOSITORY / 'tests/conftest.py'], ids=relative)
def test_zlib_comes_first(path):
    first = next(name for name in imports(path) if name == 'zlib' or name.startswith('paddle'))
    assert first == 'zlib', 'Paddle 2.6 crashes when zlib comes after it'


def tree():
    """The text files of the repository, without what git ignores."""
    skipped = {'__pycache__', 'output', 'log', 'build', 'dist', 'data'}
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if not (
            name in skipped or name.startswith('.') and name != '.ci' or name.endswith('.egg-info')
            or (Path(folder) / name / 'pyvenv.cfg').exists())]
        for name in files:
            if Path(name).suffix in ('', '.py', '.sh', '.md', '.yml', '.yaml', '.txt', '.toml', '.ini', '.in', '.csv'):
                yield Path(folder) / name


def test_no_file_knows_this_machine():
    pattern = re.compile('|'.join([  # in two pieces, so that this file passes
        '/wo' 'rk/', '/ro' 'ot/', '/ho' 'me/', r'\.\./sha' 'red', 'pypi' r'\.org', 'python' 'hosted', '/opt/' 'pypi']))
    found = [f'{relative(path)}:{number}: {line.strip()}' for path in tree()
             for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1) if pattern.search(line)]
    assert not found, '\n'.join(found)


def test_importing_the_errors_is_light():
    """A tool that only wants to say what is wrong need not load Paddle for it."""
    script = 'import sys, paddleseg_semi.errors, paddleseg_semi.plugins\nprint(sorted(sys.modules))'
    done = subprocess.run([sys.executable, '-c', script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"'paddle'", "'paddleseg'", "'cv2'", "'numpy'"} & {*done.stdout.strip('[]\n').split(', ')}


@pytest.mark.parametrize('first', ['core.val', 'cvlibs', 'datasets.streams.labeled', 'deploy.bundle',
                                   'methods.fixmatch', 'run', 'stages.train'])
def test_any_module_can_be_imported_first(first):
    """And what it uses of PaddleSeg is repaired, with all components registered."""
    script = (f'import paddleseg_semi.{first}\nimport paddleseg_semi\npaddleseg_semi.register()\n'
              'from paddleseg.models import losses\nfrom paddleseg_semi.registries import METHODS, STAGES, STREAMS\n'
              'print([len(registry.components_dict) > 4 for registry in (METHODS, STAGES, STREAMS)])')
    done = subprocess.run([sys.executable, '-c', script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '[True, True, True]' in done.stdout


def test_style():
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--quiet', '.'], cwd=REPOSITORY, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('path', YAMLS, ids=relative)
def test_yaml_and_its_bases(path):
    bases = yaml.safe_load(path.read_text()).get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        assert (path.parent / base).is_file(), f'{relative(path)}: no file {base}'


def has_labeled_images(path):
    """Whether a recipe learns from masks, and not from tags or score maps."""
    return not {'tags', 'scores'} & yaml.safe_load(path.read_text()).get('semi', {}).keys()


@pytest.mark.parametrize('ratio', [None, 0.125])
@pytest.mark.parametrize('path', RECIPES, ids=relative)
def test_recipes_pass_the_locked_config(path, ratio):
    from paddleseg_semi.cvlibs import SemiConfig
    from paddleseg_semi.datasets.streams import Unlabeled
    config = SemiConfig(str(path), label_ratio=ratio if has_labeled_images(path) else None)
    assert any(isinstance(kind, Unlabeled) for kind in config.kinds) == config.uses_unlabeled


@pytest.mark.parametrize('path', PIPELINES, ids=relative)
def test_pipelines_and_their_recipes(path, monkeypatch):
    from paddleseg_semi.cvlibs.stages import read_pipeline
    monkeypatch.chdir(REPOSITORY)  # what recipes are relative to
    own = 'config:' in path.read_text()
    recipe = 'configs/quick_start/fastscnn_demo_semi_128x128_300.yml'
    flags = {} if own else {'config': recipe, 'label_ratio': 0.125}  # a pipeline for any recipe
    assert read_pipeline(str(path), 'output', **flags).steps


@pytest.fixture
def no_paddle(tmp_path):
    """An environment in which importing the framework fails."""
    for name in ('paddle', 'paddleseg'):
        (tmp_path / f'{name}.py').write_text(f'raise ImportError("{name} was imported")\n')
    return {**os.environ, 'PYTHONPATH': str(tmp_path)}


@pytest.mark.parametrize('tool', TOOLS, ids=relative)
def test_help_needs_no_framework(tool, no_paddle):
    done = subprocess.run([sys.executable, tool, '--help'], env=no_paddle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: ')


@pytest.mark.parametrize('tool', TOOLS, ids=relative)
def test_unknown_flag_is_one_line(tool, no_paddle):
    done = subprocess.run([sys.executable, tool, '--no_such_flag'], env=no_paddle, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
