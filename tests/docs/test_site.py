"""The documentation's site, built once: complete, as on GitHub, and alone.

Skipped where MkDocs is missing; tools/run_tests.sh installs it where it can.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from shown import GITHUB, Shown

NEEDED = ('mkdocs', 'material', 'mkdocstrings_handlers', 'latex2mathml')
MISSING = [name for name in NEEDED if find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f'{", ".join(MISSING)} missing: requirements/docs.txt'
)

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / 'docs').glob('*.md'))
# What a browser fetches by itself; a link is followed by the reader.
FETCHED = {
    **{tag: 'src' for tag in ('audio', 'embed', 'iframe', 'img', 'script', 'source')},
    **{'link': 'href', 'object': 'data', 'video': 'src'},
}


def build(folder, source=ROOT):
    """Build the site as its readers do; what mkdocs said, and its exit code."""
    return subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', folder],
        cwd=source,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp('site')
    done = build(folder)
    assert done.returncode == 0, done.stdout
    return folder


def article(file):
    """The page itself, without what stands around it."""
    html = file.read_text('utf-8')
    begin = html.index('<article')
    return html[begin : html.index('</article>', begin) + len('</article>')]


def test_a_broken_link_stops_the_build(tmp_path):
    """A page, a heading, a picture and a file outside docs/ that are not there."""
    targets = ('none.md', '#none', 'images/none.png', '../none.py', 'index.md#here')
    page = '# Here\n\n' + '\n'.join(f'[text]({target})' for target in targets)
    shutil.copytree(ROOT / 'docs/site', tmp_path / 'docs/site')
    (tmp_path / 'docs/index.md').write_text(page)
    for name in ('CHANGELOG.md', 'CONTRIBUTING.md'):
        (tmp_path / name).write_text(f'# {name}\n')
    config = (ROOT / 'mkdocs.yml').read_text('utf-8').partition('\nnav:')[0]
    (tmp_path / 'mkdocs.yml').write_text(config)
    done = build(tmp_path / 'site', tmp_path)
    assert done.returncode == 1
    for target in targets[:4]:
        assert target.strip('./') in done.stdout
    assert '#here' not in done.stdout
    assert 'Aborted with 4 warnings' in done.stdout


def test_it_has_every_page_and_what_they_link_to_elsewhere(site):
    for page in PAGES:
        assert (site / f'{page.stem}.html').is_file()
    config = 'configs/mask_rcnn/mask-rcnn_r50_fpn_syncbn-all_scratch_360k_coco.py'
    shown = Shown(article(site / f'source/{config}.html'))
    assert ''.join((ROOT / config).read_text('utf-8').split()) in shown.words
    assert not list(site.rglob('*.py')) and not list(site.rglob('*.md'))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_a_page_says_the_same_as_on_github(site, page):
    """Two readers of Markdown, which differ in what an asterisk is, find the same."""
    here = Shown(article(site / f'{page.stem}.html'))
    there = Shown(GITHUB.render(page.read_text('utf-8')))
    assert here.words == there.words
    # Formulas are code there, without words; both have them.
    del there.elements['code', '']
    assert here.elements == there.elements


def test_formulas_are_drawn(site):
    for page in PAGES:
        text = page.read_text('utf-8')
        formulas = re.findall(r'<math .*?</math>', article(site / f'{page.stem}.html'))
        assert len(formulas) == text.count('```math')
        # What is not understood is left as it was written.
        assert not [formula for formula in formulas if '\\' in formula]
    html = (site / 'theory.html').read_text('utf-8')
    root = re.search(r'<msqrt>.*?</msqrt>', html)[0]
    assert (
        ''.join(re.sub(r'<[^>]+>|\s', '', root).split())
        == '2&#x003BB;&#x003B7;1&#x0002B;&#x003B1;'
    )


def public_names():
    """Every public name, by its path: what the modules on the ground floor offer."""
    package = ROOT / 'smd_mmdet'
    for file in [*package.glob('*.py'), *package.glob('*/__init__.py')]:
        if file.name.startswith('_') and file.name != '__init__.py':
            continue
        module = '.'.join(file.relative_to(ROOT).with_suffix('').parts)
        for node in ast.parse(file.read_text('utf-8')).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets) == '__all__':
                for name in ast.literal_eval(node.value):
                    yield f'{module.removesuffix(".__init__")}.{name}'


def test_the_reference_has_every_public_name(site):
    # The package itself offers a module as well, which has a section of its own.
    wanted = set(public_names()) - {'smd_mmdet.theory'}
    assert len(wanted) > 100
    found = set()
    for page in (site / 'api').glob('*.html'):
        shown = Shown(article(page))
        found |= set(shown.ids)
        # Examples are code, and no word of another tool's markup is left.
        assert (
            ':func:' not in shown.words
            and '>>>'
            not in Shown(
                re.sub(r'<pre.*?</pre>', '', article(page), flags=re.DOTALL)
            ).words
        )
    assert wanted <= found


class Requests(HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self, html):
        super().__init__()
        self.addresses = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        if tag in FETCHED and (address := facts.get(FETCHED[tag])):
            self.addresses.append(address)
        if style := facts.get('style'):
            self.addresses += urls(style)


def urls(css):
    found = re.findall(r'url\(\s*[\'"]?([^\'")]+)|@import\s+[\'"]([^\'"]+)', css)
    return [address for pair in found for address in pair if address]


def outside(folder):
    """What a browser would ask another server for."""
    asked = []
    for file in folder.rglob('*.html'):
        html = file.read_text('utf-8')
        asked += Requests(html).addresses
        asked += [
            u for css in re.findall(r'<style.*?</style>', html, re.S) for u in urls(css)
        ]
    for file in folder.rglob('*.css'):
        asked += urls(file.read_text('utf-8'))
    return {address for address in asked if re.match(r'(?:\w+:)?//', address)}


def test_it_asks_the_network_for_nothing(site):
    assert outside(site) == set()


@pytest.mark.parametrize(
    'html',
    [
        '<script src="https://a.org/b.js"></script>',
        '<link rel="stylesheet" href="//a.org/b.css">',
        '<link rel="preconnect" href="https://a.org">',
        '<img src="http://a.org/b.png">',
        '<style>@import "https://a.org/b.css";</style>',
        '<p style="background: url(https://a.org/b.png)">',
    ],
)
def test_a_request_is_seen(html, tmp_path):
    (tmp_path / 'page.html').write_text(html)
    assert len(outside(tmp_path)) == 1
    (tmp_path / 'page.html').write_text('<a href="https://a.org">a link</a>')
    assert outside(tmp_path) == set()


# -------------------------------------------------------------------- in a browser


@pytest.fixture(scope='module')
def browser():
    from browsing import CHROMIUM, DRIVER, open_browser

    if not (CHROMIUM and DRIVER):
        pytest.skip('chromium or chromedriver is not installed')
    found = open_browser()
    yield found
    found.quit()


def wait(browser, script, message=''):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.05).until(
        lambda b: b.execute_script(f'return {script}'), f'{message}: {script}'
    )


def test_search_works_from_disk_and_alone(site, browser):
    from browsing import requests_of

    requests_of(browser), browser.get_log('browser')
    browser.get((site / 'index.html').as_uri())
    field = browser.find_element('css selector', '.md-search__input')
    field.click()
    field.send_keys('equilibrium_norm')
    results = "document.querySelectorAll('.md-search-result__link')"
    wait(browser, f'{results}.length > 0')
    found = browser.execute_script(f'return [...{results}].map((link) => link.href)')
    assert any('api/theory.html' in address for address in found)
    asked = requests_of(browser)
    assert any('search_index.js' in address for address in asked)
    assert not [
        a for a in asked if not a.startswith(('file:', 'data:', 'blob:', 'about:'))
    ]
    levels = {entry['level'] for entry in browser.get_log('browser')}
    assert 'SEVERE' not in levels


@pytest.mark.parametrize(
    ('width', 'pages'),
    [(390, ['*.html', 'api/*.html']), (1280, ['index.html', 't*.html', 'api/*.html'])],
    ids=['phone', 'desktop'],
)
def test_no_page_is_wider_than_the_window(site, browser, width, pages):
    from browsing import set_size

    set_size(browser, width)
    for page in sorted(file for pattern in pages for file in site.glob(pattern)):
        browser.get(page.as_uri())
        fits = 'document.documentElement.scrollWidth <= window.innerWidth'
        wait(browser, f'window.innerWidth === {width} && {fits}', page.name)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_is_as_light_as_the_system(site, browser, scheme):
    """With a contrast that can be read."""
    from browsing import set_scheme

    set_scheme(browser, scheme)
    browser.get((site / 'theory.html').as_uri())
    colours = browser.execute_script("""
        const style = (element) => getComputedStyle(document.querySelector(element));
        return [style('body').backgroundColor, style('article p').color,
          style('article p a').color, style('math').color]""")
    paper, *inks = map(luminance, colours)
    assert (paper > 0.5) == (scheme == 'light')
    for ink in inks:
        low, high = sorted([ink, paper])
        assert (high + 0.05) / (low + 0.05) >= 4.5


def luminance(colour):
    """Relative luminance of rgb(r, g, b), as WCAG defines it."""
    parts = [float(part) for part in re.findall(r'[\d.]+', colour)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4
        for p in (part / 255 for part in parts[:3])
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
