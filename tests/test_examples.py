"""Public names: that they are evident, and that their examples do what they say."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'smd_mmdet'
MODULES = [
    '.'.join(file.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix(
        '.__init__'
    )
    for file in sorted(PACKAGE.rglob('*.py'))
]
# What `from smd_mmdet... import` is meant for: the modules of the ground floor, and
# what the packages name in their __init__.
FRONT_DOORS = (
    *('theory', 'forecast', 'rescale', 'records', 'invariance', 'monitor', 'checks'),
    'control',
    *('report', 'plan', 'audit', 'transfer', 'engine', 'datasets'),
)
# Constants, and errors that are raised for the user, need no example.
NO_EXAMPLE = (int, float, str, tuple, dict, BaseException)


@pytest.mark.parametrize('name', MODULES)
def test_a_module_says_what_is_public_or_is_private(name):
    file = PACKAGE.parent.joinpath(*name.split('.'))
    file = file / '__init__.py' if file.is_dir() else file.with_suffix('.py')
    if file.name.startswith('_') and file.name != '__init__.py':
        return
    body = ast.parse(file.read_text('utf-8')).body
    named = [
        ast.unparse(t) for n in body if isinstance(n, ast.Assign) for t in n.targets
    ]
    assert '__all__' in named or len(body) == 1  # a package of a docstring alone


@pytest.mark.parametrize('name', MODULES)
def test_examples_give_what_they_say(name, tmp_path, monkeypatch):
    if name.endswith('.programs'):
        pytest.importorskip('triton')
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert not failed


@pytest.mark.parametrize('name', FRONT_DOORS)
def test_every_public_function_and_class_has_an_example(name):
    module = importlib.import_module(f'smd_mmdet.{name}')
    missing = []
    for public in module.__all__:
        thing = getattr(module, public)
        kind = thing if inspect.isclass(thing) else type(thing)
        if not issubclass(kind, NO_EXAMPLE) and '>>>' not in (thing.__doc__ or ''):
            missing.append(public)
    assert not missing
