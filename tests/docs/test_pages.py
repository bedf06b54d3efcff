"""The documents as they lie in the repository: links, pictures, settings."""

import inspect
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from runs import write_run
from shown import anchors_on_github, links_of

from smd_mmdet.cli import _parser, main

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
DOCS = [*sorted(ROOT.glob('*.md')), *PAGES]


def faults(page):
    """What is wrong with the links of a page."""
    for link in links_of(page.read_text('utf-8')):
        address = urlsplit(link)
        if address.scheme or address.netloc:
            if address.scheme not in ('http', 'https') or '.' not in address.netloc:
                yield f'{link}: no address'
            continue
        file = (page.parent / unquote(address.path)).resolve() if address.path else page
        if not file.exists():
            yield f'{link}: no such file'
        elif address.fragment and address.fragment not in anchors_on_github(
            file.read_text('utf-8')
        ):
            yield f'{link}: no such heading'


@pytest.mark.parametrize('page', DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not list(faults(page))


def test_links_that_lead_nowhere_are_seen(tmp_path):
    (tmp_path / 'other.md').write_text(
        '# A *new* `head`: of β\n\n## Twice\n\n## Twice\n'
    )
    page = tmp_path / 'page.md'
    good = ['other.md#a-new-head-of-β', 'other.md#twice-1', '#here', 'https://a.org/b']
    bad = ['none.md', 'other.md#none', '#nowhere', 'https:/a.org', 'ftp://a.org']
    page.write_text(
        '# Here\n\n```python\nnot[a](link)\n```\n\n`nor[this](one)`\n\n'
        + '\n'.join(f'[text]({link})' for link in [*good, *bad])
    )
    assert [fault.partition(': ')[0] for fault in faults(page)] == bad


def test_the_overview_leads_to_every_page():
    linked = links_of((ROOT / 'docs/index.md').read_text('utf-8'))
    wanted = {str(page.relative_to(ROOT / 'docs')) for page in PAGES}
    assert wanted - set(linked) == {'index.md'}


def test_the_gallery_has_a_sentence_for_every_figure():
    text = (ROOT / 'docs/gallery.md').read_text('utf-8')
    shown = re.findall(
        r'!\[[^\]]+\]\((images/[^)]+)\)\n\n([^!#\n].*?)\n(?=\n|\Z)', text, re.S
    )
    figures = (ROOT / 'docs/images').rglob('*.png')
    names = [name for name, _ in shown]
    assert sorted(names) == sorted(str(f.relative_to(ROOT / 'docs')) for f in figures)
    for _, sentence in shown:
        assert re.fullmatch(r'[A-Z][^.]*(\d\.\d[^.]*)*\.', sentence), sentence


# ------------------------------------------------------------------------- settings


def tables():
    """The tables of docs/settings.md, as rows of cells."""
    text = (ROOT / 'docs/settings.md').read_text('utf-8')
    for rows in re.findall(r'^\|[-|]+\|\n((?:\|.*\n)+)', text, re.MULTILINE):
        yield [
            [cell.strip() for cell in row.split('|')[1:-1]]
            for row in rows.split('\n')[:-1]
        ]


def test_every_setting_is_told_with_its_default():
    pytest.importorskip('mmengine', reason='MMEngine is missing')
    from smd_mmdet.config.rescaling import StartSettings
    from smd_mmdet.engine import SMDHook, SMDRescaleHook

    told = [
        {name.strip('`'): default for name, default, _ in rows}
        for rows in tables()
        if len(rows[0]) == 3
    ]
    known = [
        {
            name: repr(setting.default)
            for name, setting in inspect.signature(kind).parameters.items()
            if setting.kind is not setting.VAR_KEYWORD
        }
        for kind in (SMDHook, SMDRescaleHook, StartSettings)
    ]
    assert told == known


def test_every_command_is_told_and_has_the_options_that_are_told():
    [commands] = [rows for rows in tables() if rows[0][0].startswith('`smd ')]
    parser = _parser()
    [known] = [a.choices for a in parser._actions if isinstance(a.choices, dict)]
    assert {row[0].strip('`').split()[1] for row in commands} == set(known)
    for usage, does in commands:
        options = known[usage.strip('`').split()[1]]._option_string_actions
        for option in re.findall(r'(?<![\w-])--?[a-z][a-z-]*', f'{usage} {does}'):
            assert option in options, f'{usage}: {option}'


def test_the_verdict_in_the_readme_looks_like_one(tmp_path, monkeypatch, capsys):
    """Its first line and the head of its table, as `smd check` prints them."""
    text = (ROOT / 'README.md').read_text('utf-8')
    shown = next(block for block in text.split('```') if 'in equilibrium at' in block)
    write_run(tmp_path, names=['a.weight', 'b.weight'])
    monkeypatch.setenv('COLUMNS', '120')
    main(['check', str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    told = shown.strip().splitlines()
    clauses = [re.sub(r'\d+', 'N', lines[0]).split('; ') for lines in (told, printed)]
    assert (clauses[0][0], clauses[0][-1]) == (clauses[1][0], clauses[1][-1])
    [head] = [line for line in printed if line.startswith('┃') and 'iterations' in line]
    assert told[2].replace(' ', '') == head.replace(' ', '')
