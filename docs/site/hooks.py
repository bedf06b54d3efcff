"""What the site needs beyond MkDocs; mkdocs.yml names this file.

The pages in docs/ are written for GitHub. Here formulas become MathML, which browsers
draw without any script, and what lies outside docs/ and is linked from there becomes a
page of the site.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath, relpath

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Pages from outside docs/ that the navigation names.
NAMED = {'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.cff': 'yaml'}
# The target of a link; blocks of code, which may look like links, are passed over.
LINK = re.compile(
    r'^(?P<fence>`{3,}).*?^(?P=fence)|(?<=\]\()(?P<target>[^)#\s:]+)(?=[)#])',
    re.MULTILINE | re.DOTALL,
)
# Searches find what is written about a file before the file.
FOUND_LATER = '---\nsearch:\n  boost: 0.1\n---\n\n'
# A formula as notebooks have it.
DISPLAYED = re.compile(r'^\$\$(.*?)\$\$$', re.MULTILINE | re.DOTALL)
# The file of the repository that each page shows.
_shown: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw the formulas of ``math`` blocks."""
    fence = {'name': 'math', 'class': 'math', 'format': _mathml}
    config.mdx_configs['pymdownx.superfences'] = {'custom_fences': [fence]}
    return config


def _mathml(source: str, *_: object, **__: object) -> str:
    return f'<div class="math">{convert(source, display="block")}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to and docs/ does not hold."""
    _shown.clear()
    pages = [file.src_uri for file in files.documentation_pages()]
    _shown.update({page: f'docs/{page}' for page in pages})
    waiting = [*NAMED, *(link for page in pages for link in _links(f'docs/{page}'))]
    while waiting:
        path = waiting.pop()
        place = _place(path)
        if place in _shown or not (ROOT / path).is_file() or path.startswith('docs/'):
            continue  # MkDocs tells of a link that leads nowhere
        _shown[place] = path
        page = _page(ROOT / path)
        if place.startswith('source/'):
            page = FOUND_LATER + page
        files.append(File.generated(config, place, content=page))
        waiting += _links(path) if path.endswith('.md') else ()
    return files


def _links(path: str) -> Iterator[str]:
    """What a page links to, as paths in the repository."""
    for match in LINK.finditer((ROOT / path).read_text('utf-8')):
        if match['target']:
            yield _beside(path, match['target'])


def _beside(path: str, target: str) -> str:
    return normpath(f'{path}/../{target}')


def _place(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith('docs/'):
        return path.removeprefix('docs/')
    if path in ('README.md', 'docs'):
        return 'index.md'  # the site has a front page of its own
    return NAMED.get(path, f'source/{path}{"" if path.endswith(".md") else ".md"}')


def _page(file: Path) -> str:
    """A file as a page: prose as it is, anything else as code."""
    text = file.read_text('utf-8')
    if file.suffix == '.md':
        return text
    if file.suffix == '.ipynb':
        return '\n\n'.join(_cell(cell) for cell in json.loads(text)['cells']) + '\n'
    return f'# {file.name}\n\n{_code(text, LANGUAGES.get(file.suffix, "text"))}\n'


def _cell(cell: dict) -> str:
    text = ''.join(cell['source'])
    if cell['cell_type'] == 'code':
        return _code(text, 'python')
    return DISPLAYED.sub(r'```math\n\1\n```', text)


def _code(text: str, language: str) -> str:
    return f'````{language}\n{text.rstrip()}\n````'


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Let links lead to where the site has what they lead to."""
    here = page.file.src_uri
    shown = _shown[here]

    def moved(match: re.Match) -> str:
        if not match['target']:
            return match[0]
        there = _place(_beside(shown, match['target']))
        return relpath(there, Path(here).parent.as_posix())

    return LINK.sub(moved, markdown)
