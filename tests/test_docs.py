"""What the documentation says to type, typed."""

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from runs import write_run

from smd_mmdet.cli import _parser, main
from smd_mmdet.config.shipped import find_config

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md'))]
BLOCK = re.compile(r'^```(\w+)\n(.*?)^```', re.MULTILINE | re.DOTALL)
LAYERS = ['backbone.conv1.weight', 'neck.fpn_convs.0.conv.weight']

# Commands that change the environment, or set it for the next line.
NOT_RUN = {'pip', 'export', 'source'}
# They build models of MMDetection, a minute in all; tests of their own run them.
PARSED = {'audit', 'plan', 'transfer'}


def blocks(language):
    """The document and text of every block in a language."""
    return [
        (doc, text)
        for doc in DOCS
        for kind, text in BLOCK.findall(doc.read_text('utf-8'))
        if kind == language
    ]


def commands():
    """Every line of the shell blocks once, with the document it is first in."""
    found = {}
    for doc, text in blocks('bash'):
        for line in text.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r'[A-Z_]+=', words[0]):
                words = words[1:]
            if words:
                found.setdefault(tuple(words), doc)
    return [
        pytest.param(doc, list(words), id=' '.join(words)[:60])
        for words, doc in found.items()
    ]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A checkout's folder after the runs that the documents speak of."""
    root = tmp_path_factory.mktemp('docs')
    names = {
        word.split('/')[1]
        for parameter in commands()
        for word in parameter.values[1]
        if word.startswith('work_dirs/')
    }
    facts = {'layers': {name: {'invariant': True} for name in LAYERS}}
    for seed, name in enumerate(sorted(names | {'quickstart'})):
        run = root / 'work_dirs' / name
        write_run(run, names=LAYERS, window=50, seed=seed, metadata=facts)
    return root


@pytest.mark.parametrize(('doc', 'words'), commands())
def test_command(doc, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    program, *arguments = words
    if program in NOT_RUN:
        pytest.skip(f'{program} changes the environment')
    if program == 'smd':
        smd(arguments)
    elif program in ('bash', 'python'):
        # Training takes minutes, and some of it GPUs: the files must be there.
        script = ROOT / arguments[0]
        assert script.is_file()
        if program == 'bash':
            subprocess.run(['bash', '-n', script], check=True)
        for word in arguments[1:]:
            if word.startswith('configs/'):
                assert (ROOT / word).is_file()
    else:
        pytest.fail(f'{doc.name} says to run {program}, which no test knows')


def smd(arguments):
    if 'mmpretrain::' in ' '.join(arguments) and find_spec('mmpretrain') is None:
        pytest.skip('mmpretrain is missing')
    if arguments[0] in PARSED:
        parsed = _parser().parse_args(arguments)
        if '::' in parsed.config:
            assert find_config(parsed.config).is_file()
        else:
            assert (ROOT / parsed.config).is_file() or parsed.config.startswith('my_')
    elif arguments[0] == 'shapes':
        fewer = {'400': '4', '50': '2', '2000': '4', '1000': '2'}
        assert main([fewer.get(word, word) for word in arguments]) == 0
    else:
        assert main(arguments) in (0, 1)


def test_the_plan_in_the_readme_is_what_smd_says(capsys, monkeypatch, tmp_path):
    pytest.importorskip('mmdet', reason='mmdet is missing')
    monkeypatch.chdir(tmp_path)
    text = (ROOT / 'README.md').read_text('utf-8')
    told = re.search(r'```bash\n(smd plan .*)\n```\n\n```\n(.*?)```', text, re.DOTALL)
    assert main(shlex.split(told[1])[1:]) == 1
    # Lines end where the table does.
    said = ' '.join(capsys.readouterr().out.split())
    for sentence in re.split(r'\n(?=!)', told[2]):
        assert ' '.join(sentence.split()) in said


@pytest.mark.parametrize(
    'text',
    [pytest.param(t, id=f'{d.stem} {i}') for i, (d, t) in enumerate(blocks('python'))],
)
def test_python(text, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    program = compile(text, 'block', 'exec')
    if '_base_' in text:
        package = 'mmpretrain' if 'mmpretrain::' in text else 'mmdet'
        if find_spec(package) is None:
            pytest.skip(f'{package} is missing')
        from mmengine.config import Config

        file = tmp_path / 'config.py'
        file.write_text(text)
        config = Config.fromfile(file)
        backbone = config.model.backbone
        # MMPretrain's are as they should be unless they say otherwise.
        trained = config.default_scope == 'mmpretrain'
        assert backbone.get('norm_eval', not trained) is False
        assert backbone.get('norm_cfg', {}).get('requires_grad', trained) is True
    elif 'quickstart' in text:
        for package in ('pandas', 'polars'):
            if f'import {package}' in text:
                pytest.importorskip(package, reason=f'{package} is missing')
        exec(program, {})


@pytest.mark.parametrize('text', [text for _, text in blocks('sql')])
def test_sql(text, folder, monkeypatch):
    duckdb = pytest.importorskip('duckdb', reason='duckdb is missing')
    monkeypatch.chdir(folder)
    for statement in text.split(';'):
        if statement.strip():
            assert duckdb.sql(statement).fetchall()


def test_the_guide_for_contributors_names_files_and_functions_that_are_there():
    guide = (ROOT / 'CONTRIBUTING.md').read_text('utf-8')
    named = re.findall(r'`([\w.]+)`\s+\(`([\w/]+\.py)`\)', guide)
    assert len(named) > 15
    for name, file in named:
        text = (ROOT / 'smd_mmdet' / file).read_text('utf-8')
        for part in name.split('.'):
            assert re.search(rf'^\s*((def|class) {part}\b|{part}\b.*=)', text, re.M), (
                f'{file} has no {part}'
            )
    for path in re.findall(r'`((?:smd_mmdet|tests|studies|tools)/[\w/]+\.\w+)`', guide):
        assert (ROOT / path).is_file(), path
