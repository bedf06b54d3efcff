"""Workflows, templates and versions, as far as they can be tried without GitHub.

A workflow fails where nobody looks, and only after a push. So every command in one is
looked up here: the program, the file it runs, the options it is given.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from launching import ROOT

import smd_mmdet
from smd_mmdet import cli

sys.path.append(str(ROOT / 'tools'))  # behind tests, which has a processes.py too
import build_mmcv
import check_stacks

GITHUB = ROOT / '.github'
WORKFLOWS = sorted(GITHUB.glob('workflows/*.yml'))
ACTION = GITHUB / 'actions' / 'stack' / 'action.yml'
FORMS = sorted(GITHUB.glob('ISSUE_TEMPLATE/[0-9]*.yml'))
PAGES = ('CHANGELOG', 'CODE_OF_CONDUCT', 'CONTRIBUTING', 'SECURITY')
pytestmark = pytest.mark.skipif(
    not GITHUB.is_dir(), reason='the source archive holds no workflows'
)
# What a runner of GitHub has besides Python.
PROGRAMS = {'bash', 'cat'}


# ------------------------------------------------------------------ schemas


def complaints(schema, *files):
    """What check-jsonschema has to say of files, by one of the schemas it carries."""
    pytest.importorskip('check_jsonschema', reason='check-jsonschema is missing')
    program = (sys.executable, '-m', 'check_jsonschema', '--builtin-schema')
    done = subprocess.run(
        [*program, schema, *map(str, files)], capture_output=True, text=True
    )
    return done.stdout + done.stderr if done.returncode else ''


SCHEMAS = {
    'vendor.github-workflows': WORKFLOWS,
    'custom.github-workflows-require-timeout': WORKFLOWS,
    'vendor.github-actions': [ACTION],
    'vendor.github-issue-forms': FORMS,
    'vendor.github-issue-config': [GITHUB / 'ISSUE_TEMPLATE' / 'config.yml'],
    'vendor.dependabot': [GITHUB / 'dependabot.yml'],
    'vendor.citation-file-format': [ROOT / 'CITATION.cff'],
}


@pytest.mark.parametrize('schema', SCHEMAS)
def test_files_are_what_github_accepts(schema):
    assert SCHEMAS[schema]
    assert complaints(schema, *SCHEMAS[schema]) == ''


@pytest.mark.parametrize(
    ('schema', 'old', 'new'),
    [
        ('vendor.github-workflows', 'runs-on:', 'run-on:'),
        ('custom.github-workflows-require-timeout', 'timeout-minutes: 15', 'name: a'),
        ('vendor.github-actions', 'using: composite', 'using: nothing'),
        ('vendor.github-issue-forms', 'type: textarea', 'type: text'),
        ('vendor.citation-file-format', '2026-11-28', 'today'),
    ],
)
def test_a_file_that_github_refuses_is_seen(schema, old, new, tmp_path):
    text = SCHEMAS[schema][-1].read_text('utf-8')
    assert old in text
    (tmp_path / 'broken.yml').write_text(text.replace(old, new), 'utf-8')
    assert complaints(schema, tmp_path / 'broken.yml')


# ------------------------------------------------------------------ commands


def commands(script):
    """The words of each command of a script, without where its output goes."""
    for line in script.replace('\\\n', ' ').splitlines():
        words = []
        for word in shlex.split(line, comments=True):
            if word in ('&&', '||', '|', ';'):
                yield words
                words = []
            else:
                words.append(word)
        if '>>' in words:
            words = words[: words.index('>>')]
        if words:
            yield words


@functools.cache
def help_of(*command):
    """What a program of ours, or one that is installed here, says of its options."""
    environment = {**os.environ, 'COLUMNS': '200'}
    done = subprocess.run(
        [sys.executable, *command, '--help'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    return done.stdout


def unknown_options(words, told):
    options = [word.partition('=')[0] for word in words if word.startswith('--')]
    return [f'{option} is no option' for option in options if option not in told]


class Job:
    """A job's steps in turn: what they install, and what is wrong with them."""

    def __init__(self):
        self.installed = set(sys.stdlib_module_names) | {'pip'}
        self.faults = []

    def run(self, script, folder='.'):
        for words in commands(script):
            self.faults += self.of_command(Path(words[0]).name, words[1:], folder)

    def of_command(self, program, words, folder):
        if program == 'python':
            return self.of_python(words)
        if program == 'smd':
            return of_smd(words)
        if program not in PROGRAMS:
            return [f'{program}: no such program']
        file = ROOT / folder / words[0]
        return [] if file.is_file() else [f'{words[0]}: no such file']

    def of_python(self, words):
        if words[0] != '-m':
            if not (ROOT / words[0]).is_file():
                return [f'{words[0]}: no such file']
            return unknown_options(words[1:], help_of(words[0]))
        module, *words = words[1:]
        if module == 'pip':
            return self.of_pip(words)
        if module not in self.installed:
            return [f'{module} is not installed by then']
        if find_spec(module) is None:
            return []
        subcommand = words[:1] if words and words[0].isalpha() else []
        return unknown_options(words, help_of('-m', module, *subcommand))

    def of_pip(self, words):
        assert words.pop(0) == 'install'
        faults = []
        while words:
            word = words.pop(0)
            if word not in ('-r', '-c'):
                self.installed.add(word.partition('==')[0])
                continue
            file = ROOT / words.pop(0)
            if not file.is_file():
                faults.append(f'{file.name}: no such file')
            elif word == '-r':
                names = re.findall(r'^[\w.-]+', file.read_text(), re.MULTILINE)
                self.installed |= {name.replace('-', '_').lower() for name in names}
        return faults


def of_smd(words):
    try:
        cli._parser().parse_args(words)
    except SystemExit as ended:
        return [f'smd {" ".join(words)}: refused'] if ended.code else []
    return []


def faults_of_steps(steps):
    """What is wrong with the steps of a job, or of an action."""
    job = Job()
    for step in steps:
        if 'run' in step:
            job.run(step['run'], step.get('working-directory', '.'))
        uses = step.get('uses', '')
        if uses.startswith('./'):
            if not (ROOT / uses / 'action.yml').is_file():
                job.faults.append(f'{uses}: no such action')
        elif uses and not re.fullmatch(r'actions/[\w/-]+@v\d+', uses):
            job.faults.append(f'{uses}: not pinned by a major version')
    text = yaml.safe_dump(steps)
    known = {step.get('id') for step in steps}
    for name in re.findall(r'\bsteps\.([\w-]+)\.', text):
        if name not in known:
            job.faults.append(f'steps.{name}: no step has this id')
    patterns = re.findall(r'hashFiles\((.*?)\)', text, re.DOTALL)
    patterns = re.findall(r"'+([^',\s]+)'+", ' '.join(patterns))
    patterns += [s['with']['cache-dependency-path'] for s in steps
                 if 'cache-dependency-path' in s.get('with', {})]  # fmt: skip
    for pattern in patterns:
        if not list(ROOT.glob(pattern)):
            job.faults.append(f'{pattern}: no such files')
    return job.faults


def faults_of_job(job):
    """What is wrong with a job; with the stacks that it is run for, too."""
    faults = faults_of_steps(job['steps'])
    matrix = job.get('strategy', {}).get('matrix', {})
    for name in re.findall(r'\bmatrix\.(\w+)', yaml.safe_dump(job)):
        if name not in matrix:
            faults.append(f'matrix.{name}: not in the matrix')
    for stack in matrix.get('stack', []):
        if stack not in check_stacks.stacks():
            faults.append(f'{stack}: no such stack')
    return faults


def jobs(text):
    return yaml.safe_load(text)['jobs']


WORKFLOW_JOBS = [
    pytest.param(job, id=f'{file.stem}-{name}')
    for file in WORKFLOWS
    for name, job in jobs(file.read_text('utf-8')).items()
]


@pytest.mark.parametrize('job', WORKFLOW_JOBS)
def test_every_command_of_a_workflow_is_there(job):
    if 'mkdocs' in str(job) and not (ROOT / 'mkdocs.yml').is_file():
        pytest.skip('there is no site in this checkout')
    assert faults_of_job(job) == []


def test_every_command_of_the_action_is_there():
    action = yaml.safe_load(ACTION.read_text('utf-8'))
    assert faults_of_steps(action['runs']['steps']) == []
    used = set(re.findall(r'\binputs\.([\w-]+)', ACTION.read_text('utf-8')))
    assert used == set(action['inputs'])


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        ('actions/checkout@v6', 'actions/checkout@main', 'not pinned'),
        ('actions/checkout@v6', 'someone/else@v1', 'not pinned'),
        ('./.github/actions/stack', './.github/actions/none', 'no such action'),
        ('python -m mypy', 'python -m pyright', 'pyright is not installed by then'),
        ('python -m mypy', 'nosuch .', 'nosuch: no such program'),
        ('python -m mypy', 'bash tools/none.sh', 'tools/none.sh: no such file'),
        ('python -m mypy', 'python tools/none.py', 'tools/none.py: no such file'),
        ('-c requirements/tests.txt', '-c none.txt', 'none.txt: no such file'),
        ('--output-format', '--no-such', '--no-such is no option'),
        ('bin/smd env', 'bin/smd enviroment', 'smd enviroment: refused'),
        ('env --json', 'env --yaml', 'smd env --yaml: refused'),
        ('[pinned, oldest]', '[pinned, ancient]', 'ancient: no such stack'),
        ('stack: [pinned', 'other: [pinned', 'matrix.stack: not in the matrix'),
        ('requirements/*.txt', 'nowhere/*.txt', 'nowhere/*.txt: no such files'),
    ],
)
def test_a_workflow_that_would_fail_is_seen(old, new, fault):
    text = (GITHUB / 'workflows/tests.yml').read_text('utf-8')
    assert old in text
    found = [f for j in jobs(text.replace(old, new)).values() for f in faults_of_job(j)]
    assert any(fault in one for one in found), found


@pytest.mark.parametrize(
    ('old', 'new', 'fault'),
    [
        ('--only', '--just', '--just is no option'),
        ('docs/stacks.md', 'docs/none.md', 'docs/none.md: no such file'),
        ('tools/build_mmcv.py', 'tools/none.py', 'tools/none.py: no such files'),
        ('id: wheels', 'id: others', 'steps.wheels: no step has this id'),
    ],
)
def test_an_action_that_would_fail_is_seen(old, new, fault):
    text = ACTION.read_text('utf-8')
    assert old in text
    found = faults_of_steps(yaml.safe_load(text.replace(old, new))['runs']['steps'])
    assert any(fault in one for one in found), found


def test_every_stack_is_tested_somewhere_and_two_at_every_change():
    tested = {
        file.stem: set(
            jobs(file.read_text('utf-8'))['tests']['strategy']['matrix']['stack']
        )
        for file in WORKFLOWS
    }
    assert tested['tests'] == {'pinned', 'oldest'}
    assert set().union(*tested.values()) == set(check_stacks.stacks())


def test_what_is_cached_is_where_wheels_are_kept():
    """And what it is kept under changes with all that a wheel depends on."""
    steps = yaml.safe_load(ACTION.read_text('utf-8'))['runs']['steps']
    cached = [s['with'] for s in steps if s.get('uses', '').startswith('actions/cache')]
    kept = '/'.join((build_mmcv.CACHE.name, 'wheels'))
    assert [one['path'] for one in cached] == [f'~/.cache/{kept}'] * 2
    for part in ('runner.os', 'inputs.stack', 'requirements/*.txt'):
        assert part in cached[0]['key']


# ------------------------------------------------------------------ templates


@pytest.mark.parametrize('form', FORMS, ids=lambda file: file.stem)
def test_a_form_asks_for_version_and_environment(form):
    labels = [
        part['attributes'].get('label', '')
        for part in yaml.safe_load(form.read_text('utf-8'))['body']
    ]
    asked = re.findall(r'Output of `smd ([^`]+)`', '\n'.join(labels))
    assert asked == ['--version', 'env']


def test_what_the_templates_ask_for_can_be_typed():
    texts = [file.read_text('utf-8') for file in FORMS]
    texts.append((GITHUB / 'pull_request_template.md').read_text('utf-8'))
    for text in texts:
        lines = re.findall(r'`smd ([^`]+)`', text)
        assert {'--version', 'env'} <= set(lines)
        for line in lines:
            assert of_smd(shlex.split(line)) == []


# ------------------------------------------------------------------ versions


def released(changes):
    """Version and date of the newest release in a changelog."""
    return re.search(r'^## (\d[\w.]*) \((\d{4}-\d\d-\d\d)\)$', changes, re.M).groups()


def disagreements(changes, citation, form, precommit):
    """What names another version than the package, or than requirements/."""
    wrong = []
    version, date = released(changes)
    if version != smd_mmdet.__version__:
        wrong.append(f'CHANGELOG.md: {version}')
    cited = yaml.safe_load(citation)
    if (cited['version'], str(cited['date-released'])) != (version, date):
        wrong.append(f'CITATION.cff: {cited["version"]}, {cited["date-released"]}')
    if f'placeholder: smd {smd_mmdet.__version__}\n' not in form:
        wrong.append('the forms show another version')
    ruff = next(r for r in yaml.safe_load(precommit)['repos'] if 'ruff' in r['repo'])
    pinned = (ROOT / 'requirements/tests.txt').read_text()
    if f'ruff=={ruff["rev"].removeprefix("v")}\n' not in pinned:
        wrong.append(f'.pre-commit-config.yaml: ruff {ruff["rev"]}')
    return wrong


def versioned():
    names = ('CHANGELOG.md', 'CITATION.cff', FORMS[0], '.pre-commit-config.yaml')
    return [(ROOT / name).read_text('utf-8') for name in names]


def test_versions_agree():
    assert disagreements(*versioned()) == []


@pytest.mark.parametrize(
    ('file', 'old', 'new'),
    [
        (0, f'## {smd_mmdet.__version__} (', '## 9.9.9 ('),
        (1, f'version: {smd_mmdet.__version__}', 'version: 9.9.9'),
        (1, 'date-released: 20', 'date-released: 19'),
        (2, f'smd {smd_mmdet.__version__}', 'smd 9.9.9'),
        (3, 'ruff-pre-commit\n    rev: v', 'ruff-pre-commit\n    rev: v9.'),
    ],
)
def test_a_version_that_differs_is_seen(file, old, new):
    texts = versioned()
    assert old in texts[file]
    texts[file] = texts[file].replace(old, new)
    assert disagreements(*texts)


def test_the_stack_is_named_alike_everywhere():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']
    extras = project['optional-dependencies']
    pinned = (ROOT / 'requirements/stack.txt').read_text().splitlines()
    assert set(extras['mmdet']) < set(pinned)
    assert set(cli.STACK.partition(',')[0].split()) == set(extras['mmdet'])
    fork = check_stacks.stacks()['fork']
    named = {*fork.packages, '=='.join(fork.mmcv)}
    assert set(extras['onedl']) < named


# ------------------------------------------------------------------ files for readers


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).lower()
    return re.sub(r'[^\w\- ]', '', text).strip().replace(' ', '-')


@pytest.mark.parametrize('page', PAGES)
def test_links_of_the_pages_at_the_top_lead_somewhere(page):
    for target in re.findall(
        r'\]\(([^)\s]+)\)', (ROOT / f'{page}.md').read_text('utf-8')
    ):
        if '://' in target:
            continue
        name, _, anchor = target.partition('#')
        linked = ROOT / name if name else ROOT / f'{page}.md'
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.+)$', linked.read_text('utf-8'), re.M)
            assert anchor in map(slug, headings), target


# Repositories that are there. This project says nothing of where it is kept.
REAL = {
    *('open-mmlab/mmdetection', 'astral-sh/ruff-pre-commit', 'kynan/nbstripout'),
    'pre-commit/pre-commit-hooks',
}


def repositories(text):
    return set(re.findall(r'github\.com/([\w.-]+/[\w.-]+)', text))


def test_no_address_is_made_up():
    files = [
        *(file for file in GITHUB.rglob('*') if file.is_file()),
        *(ROOT / name for name in ('CITATION.cff', 'pyproject.toml')),
        *(ROOT / f'{name}.md' for name in PAGES),
        ROOT / '.pre-commit-config.yaml',
    ]
    for file in files:
        assert repositories(file.read_text('utf-8')) <= REAL, file
    assert repositories('https://github.com/OWNER/smd_mmdet') - REAL


def test_no_file_is_larger_than_pre_commit_allows():
    config = (ROOT / '.pre-commit-config.yaml').read_text('utf-8')
    most = 1024 * int(re.search(r'--maxkb=(\d+)', config)[1])
    listed = subprocess.run(
        ['git', '-C', ROOT, 'ls-files', '-z'], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip('this is no checkout')
    files = [ROOT / name for name in listed.stdout.split('\0') if name]
    assert [
        file for file in files if file.exists() and file.stat().st_size > most
    ] == []
