"""Reads the sources for operators that Paddle 3.3 gets wrong or that make the step wait for the device.

- `nll_loss` with ignored labels writes out of bounds on a CPU.
- Gradients of `max`, `min`, `amax` and `amin` take quadratic time on a CPU; without gradient they are fine.
- `.numpy()`, `.item()`, `.tolist()` and `float(tensor)` wait for the device: not in losses and methods.
- `paddle.load` and pickle execute what a file says: `paddleseg_semi.safe` reads files instead.
- `clear_grad()` leaves zeros, by which an idle optimizer still moves weights: `clear_grad(set_to_zero=False)`.
"""

import ast

import pytest
from conftest import ROOT

REDUCTIONS = {'max', 'min', 'amax', 'amin'}
SYNCS = {'numpy', 'item', 'tolist'}
CASTS = {'float', 'int', 'bool'}
LOADERS = {('paddle', 'load'), ('pickle', 'load'), ('pickle', 'loads'), ('pickle', 'Unpickler'), ('np', 'load')}
FILES = sorted(path for folder in ('paddleseg_semi', 'tools', 'deploy') for path in (ROOT / folder).rglob('*.py'))


class Finder(ast.NodeVisitor):
    """Collects 'line: reason' of what a file must not do."""

    def __init__(self, step, differentiable, safe):
        self.step, self.differentiable, self.safe = step, differentiable, safe
        self.found = []
        self.inside = []  # names of the functions around, and 'no_grad' for contexts and decorators

    def flag(self, node, reason):
        self.found.append(f'{node.lineno}: {reason}')

    def visit_FunctionDef(self, node):
        self.inside.append(node.name)
        self.enclose(node, any('no_grad' in ast.unparse(decorator) for decorator in node.decorator_list))
        self.inside.pop()

    def visit_With(self, node):
        self.enclose(node, any('no_grad' in ast.unparse(item.context_expr) for item in node.items))

    def enclose(self, node, no_grad):
        if no_grad:
            self.inside.append('no_grad')
        self.generic_visit(node)
        if no_grad:
            self.inside.pop()

    def visit_ImportFrom(self, node):
        for alias in node.names:
            if 'nll' in alias.name.lower() or (node.module, alias.name) in LOADERS and not self.safe:
                self.flag(node, alias.name)

    def visit_Attribute(self, node):
        if node.attr in ('nll_loss', 'NLLLoss'):
            self.flag(node, node.attr)
        if isinstance(node.value, ast.Name) and (node.value.id, node.attr) in LOADERS and not self.safe:
            self.flag(node, f'{node.value.id}.{node.attr}')
        self.generic_visit(node)

    def visit_Call(self, node):
        function = node.func
        if isinstance(function, ast.Attribute):
            on_tensor = not (isinstance(function.value, ast.Name) and function.value.id in ('np', 'math'))
            if function.attr in REDUCTIONS and on_tensor and self.differentiable and 'no_grad' not in self.inside:
                self.flag(node, f'gradient of {function.attr}')
            if function.attr in SYNCS and self.step:
                self.flag(node, f'waits: {function.attr}')
            if function.attr == 'clear_grad' and not node.args and not node.keywords:
                self.flag(node, 'clear_grad leaves zeros')
        elif isinstance(function, ast.Name) and function.id in CASTS and self.step and '__init__' not in self.inside \
                and not all(isinstance(arg, ast.Constant) for arg in node.args):
            self.flag(node, f'waits: {function.id}(...)')
        self.generic_visit(node)


def banned(source, step=True, differentiable=True, safe=False):
    finder = Finder(step, differentiable, safe)
    finder.visit(ast.parse(source))
    return finder.found


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path):
    parts = path.relative_to(ROOT).parts
    step = parts[0] == 'paddleseg_semi' and parts[1] in ('losses', 'methods')
    differentiable = step or parts[:2] == ('paddleseg_semi', 'models')
    # parallel.py: what one rank sends another is no file
    reads_files = parts[-1] in ('safe.py', 'torch_file.py', 'maps.py', 'parallel.py') and parts[0] == 'paddleseg_semi'
    assert banned(path.read_text(), step, differentiable, reads_files) == []


@pytest.mark.parametrize('source', [
    'F.nll_loss(x, y)', 'nn.NLLLoss()', 'from paddle.nn.functional import nll_loss', 'x.max(1)', 'paddle.amin(x)',
    'def step(x):\n    return x.max()', 'x.numpy()', 'loss.item()', 'float(loss)', 'def step(x):\n    return int(x)',
    'paddle.load(path)', 'import pickle\npickle.load(f)', 'from pickle import loads', 'optimizer.clear_grad()',
    'with paddle.no_grad():\n    pass\nx.max()'])
def test_the_finder_finds(source):
    assert len(banned(source)) == 1


@pytest.mark.parametrize('source', [
    'with paddle.no_grad():\n    x.max(1)', '@paddle.no_grad()\ndef f(x):\n    return paddle.max(x)', 'np.max(x)',
    'max(a, b)', 'x.argmax(1)', "float('inf')", 'def __init__(self, t):\n    self.t = float(t)', 'safe.load(path)',
    'optimizer.clear_grad(set_to_zero=False)'])
def test_the_finder_lets_pass(source):
    assert banned(source) == []
