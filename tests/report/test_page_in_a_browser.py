"""The page in a real browser, without a network."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from runs import simulated

from smd_mmdet.report.page import render_page
from smd_mmdet.report.run import run_of

pytest.importorskip('selenium', reason='selenium is missing')
from browsing import needs_chromium, open_browser, requests_of
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = needs_chromium

EVIL = '</script><img src=x onerror=alert(1)>'
NAMES = [
    *('backbone.conv1.weight', 'backbone.layer1.0.conv2.weight'),
    *('neck.fpn_convs.0.conv.weight', f'neck.{EVIL}', '<b>bold</b>&amp;{{data}}'),
]


@pytest.fixture(scope='module')
def browser():
    found = open_browser()
    yield found
    found.quit()


@pytest.fixture(scope='module')
def page(browser, tmp_path_factory):
    """The loaded page, with what it logged and asked the network for."""
    records = simulated(
        NAMES, metadata={'config': f'x = "{EVIL}"', 'packages': {EVIL: EVIL}}
    )
    file = tmp_path_factory.mktemp('page') / 'report.html'
    file.write_text(render_page(run_of(records, EVIL)), 'utf-8')
    browser.get_log('browser'), browser.get_log('performance')
    opened = open_page(browser, file)
    opened.console = browser.get_log('browser')
    opened.requests = requests_of(browser)
    return opened


def open_page(browser, file):
    browser.get(file.as_uri())
    ready(browser)
    return SimpleNamespace(
        browser=browser, file=file, find=lambda i: browser.find_element(By.ID, i)
    )


def ready(browser):
    WebDriverWait(browser, 20).until(
        lambda b: b.execute_script('return window.smdReady')
    )


def wait(page, script, message):
    WebDriverWait(page.browser, 10).until(
        lambda b: b.execute_script(f'return {script}'), message
    )


def ask(page, script):
    return page.browser.execute_script(f'return {script}')


def rows(page, table):
    return page.browser.find_elements(By.CSS_SELECTOR, f'#{table} tbody tr')


def type_into(page, field, text):
    page.find(field).clear()
    page.find(field).send_keys(text)


def test_it_loads_quietly_and_alone(page):
    assert [entry for entry in page.console if entry['level'] != 'INFO'] == []
    outside = [u for u in page.requests if not u.startswith(('data:', 'blob:'))]
    assert outside == [page.file.as_uri()]


def test_names_and_settings_are_only_text(page):
    assert ask(page, "document.querySelectorAll('img[src=x]').length") == 0
    assert EVIL in page.browser.title
    assert EVIL in ask(page, "document.querySelector('pre').textContent")
    Select(page.find('layer')).select_by_visible_text(f'neck.{EVIL}')
    wait(page, f"document.getElementById('about').textContent.includes({EVIL!r})", '')
    wait(page, "document.getElementById('one').data.length > 5", 'nothing is drawn')
    labels = ask(page, "document.getElementById('heat').layout.yaxis.ticktext")
    assert f'neck.{EVIL}'.replace('<', '&lt;').replace('>', '&gt;') in labels
    drawn = ask(page, "document.querySelector('#heat .ytick:nth-child(4)').textContent")
    assert drawn == f'neck.{EVIL}'
    assert ask(page, "document.querySelectorAll('img[src=x]').length") == 0
    levels = [entry['level'] for entry in page.browser.get_log('browser')]
    assert 'SEVERE' not in levels


def test_picking_a_layer_changes_the_figure(page):
    Select(page.find('layer')).select_by_visible_text(NAMES[0])
    norm = "document.getElementById('one')._fullData.find(t => t.name === '‖w‖').y[40]"
    about = "document.getElementById('about').textContent"
    wait(page, f'{about}.startsWith({NAMES[0]!r})', 'the text does not change')
    first = ask(page, norm)
    page.find('next').click()
    wait(page, f'{about}.startsWith({NAMES[1]!r})', 'the text does not change')
    wait(page, f'{norm} !== {first}', 'the figure does not change')
    page.find('previous').click()
    wait(page, f'{norm} === {first}', 'the figure does not change back')


def test_zooming_zooms_all_figures(page):
    written = "document.getElementById('all').layout.annotations.map(a => a.text)"
    stages = ['stage 0, lr 0.05', 'stage 1, lr 0.005']
    assert ask(page, written) == ['warm-up', *stages]
    for field, value in (('from', '300'), ('to', '600')):
        type_into(page, field, value + Keys.TAB)
    wait(page, f'{written}.join() === {stages[0]!r}', 'stages are not named anew')
    for graph in ('heat', 'all', 'one'):
        range_of = f"document.getElementById('{graph}').layout.xaxis.range"
        wait(page, f'{range_of}.map(Math.round).join() === "300,600"', graph)
    page.find('reset').click()
    wait(page, "document.getElementById('one').layout.xaxis.range[1] === 1500", 'reset')


@pytest.mark.parametrize(
    ('low', 'high', 'word'),
    [
        ('1500', '100', '1500 to 100: the first iteration must be below the last.'),
        ('5000', '6000', '5000 to 6000: the run has iterations 0 to 1500.'),
        ('', '100', 'Two iterations are wanted, both as whole numbers.'),
    ],
)
def test_a_range_that_is_none_is_refused_with_a_word(page, low, high, word):
    page.find('reset').click()
    for field, value in (('from', low), ('to', high)):
        type_into(page, field, value + Keys.TAB)
    assert page.find('refused').text == word
    assert page.find('refused').get_attribute('role') == 'alert'
    assert page.find('from').get_attribute('aria-invalid') == 'true'
    assert ask(page, "document.getElementById('one').layout.xaxis.range") == [0, 1500]
    page.find('reset').click()
    assert page.find('refused').text == ''
    assert page.find('from').get_attribute('aria-invalid') == 'false'


def test_the_address_keeps_layer_and_zoom(page):
    Select(page.find('layer')).select_by_visible_text(f'neck.{EVIL}')
    for field, value in (('from', '300'), ('to', '600')):
        type_into(page, field, value + Keys.TAB)
    address = page.browser.current_url
    # A new page by that address, as a colleague opens it.
    page.browser.get('about:blank')
    page.browser.get(address)
    ready(page.browser)
    assert page.find('about').text.startswith(f'neck.{EVIL}')
    fields = [page.find(i).get_attribute('value') for i in ('from', 'to')]
    assert fields == ['300', '600']
    for graph in ('heat', 'all', 'one'):
        drawn = f"document.getElementById('{graph}').layout.xaxis.range"
        assert ask(page, drawn) == [300, 600]
    page.find('reset').click()
    assert page.browser.current_url != address
    page.browser.execute_script('location.hash = arguments[0]', address.split('#')[1])
    wait(page, "document.getElementById('from').value === '300'", 'not followed')


def test_an_address_that_means_nothing_shows_the_furthest_layer(page):
    page.browser.get('about:blank')
    page.browser.get(page.file.as_uri() + '#layer=nonsense&from=9&to=x')
    ready(page.browser)
    assert page.find('from').get_attribute('value') == '0'
    assert ask(page, "document.getElementById('one').layout.xaxis.range") == [0, 1500]
    layers = page_layers(page)
    ratios = [abs(np.log(layer['stages'][-1]['angle'])) for layer in layers]
    furthest = layers[int(np.argmax(ratios))]['name']
    assert page.find('about').text.startswith(furthest)


def test_another_quantity_is_drawn(page):
    title = "document.getElementById('all').layout.yaxis.title.text"
    for value, text in (('ratio', 'Δ/Δ*'), ('cosine', '|cosine(w, g)|')):
        Select(page.find('scale')).select_by_value(value)
        wait(page, f'{title} === {text!r}', text)


def test_layers_are_filtered(page):
    assert len(rows(page, 'layers')) == len(NAMES)
    type_into(page, 'find-layer', 'BACKBONE')
    assert len(rows(page, 'layers')) == 2
    assert page.find('layers-count').text == '2 of 5 layers'
    type_into(page, 'find-layer', 'nonsense')
    assert rows(page, 'layers') == []
    page.find('find-layer').send_keys(Keys.CONTROL, 'a', Keys.DELETE)
    assert len(rows(page, 'layers')) == len(NAMES)


def test_checks_are_filtered(page):
    everything = len(rows(page, 'checks'))
    Select(page.find('verdicts')).select_by_value('holds')
    held = rows(page, 'checks')
    assert 0 < len(held) < everything
    assert all('✓ holds' in row.text for row in held)
    Select(page.find('check')).select_by_value('transient_law')
    assert page.find('checks-count').text.startswith(f'{len(NAMES)} of ')
    type_into(page, 'find-check', 'fpn_convs')
    assert len(rows(page, 'checks')) == 1
    Select(page.find('verdicts')).select_by_value('fails')
    assert rows(page, 'checks') == []
    for field in ('check', 'verdicts'):
        Select(page.find(field)).select_by_value('')
    page.find('find-check').send_keys(Keys.CONTROL, 'a', Keys.DELETE)


def test_dull_checks_fold_into_one_row(page):
    """A row for all layers alike, with the range of their figures, that opens."""
    Select(page.find('check')).select_by_value('transient_law')
    [row] = rows(page, 'checks')
    assert row.text.startswith(f'▸ {len(NAMES)} layers')
    margins = [check[5] for check in checks(page, 'transient_law')]
    assert f'{min(margins):.3g}–{max(margins):.3g}' in row.text
    told = [float(number) for number in re.findall(r'is ([\d.]+)[–\d.]* \(', row.text)]
    low = min(check[3] for check in checks(page, 'transient_law'))
    assert told == [pytest.approx(low, abs=1e-3)]
    row.find_element(By.TAG_NAME, 'button').send_keys(Keys.ENTER)
    assert len(rows(page, 'checks')) == 1 + len(NAMES)
    opened = ask(page, 'document.activeElement.ariaExpanded')
    assert opened == 'true'
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(rows(page, 'checks')) == 1
    Select(page.find('check')).select_by_value('')


def checks(page, name):
    """What the page knows of a check in the last stage of each layer."""
    last = [layer['stages'][-1]['checks'] for layer in page_layers(page)]
    return [check for found in last for check in found if check[0] == name]


def page_layers(page):
    return json.loads(page.find('data').get_attribute('textContent'))['layers']


def test_layers_are_sorted(page):
    def column():
        cells = page.browser.find_elements(
            By.CSS_SELECTOR, '#layers tbody td:nth-child(3)'
        )
        return [float(cell.text) for cell in cells]

    head = page.browser.find_element(By.CSS_SELECTOR, '#layers th:nth-child(3)')
    assert column() == sorted(column())
    assert head.get_attribute('aria-sort') == 'ascending'
    head.find_element(By.TAG_NAME, 'button').click()
    assert column() == sorted(column(), reverse=True)
    assert head.get_attribute('aria-sort') == 'descending'


def test_the_keyboard_reaches_every_control(page):
    page.browser.execute_script("""
        window.reached = [];
        document.addEventListener('focusin', (event) =>
          window.reached.push(event.target.id || event.target.textContent));
        document.activeElement.blur();
        document.body.tabIndex = -1;
        document.body.focus()""")
    ActionChains(page.browser).send_keys(Keys.TAB * 70).perform()
    reached = set(ask(page, 'window.reached'))
    wanted = {'scale', 'layer', 'previous', 'next', 'from', 'to', 'reset', 'stage'}
    wanted |= {
        'find-layer',
        'state',
        'find-check',
        'check',
        'verdicts',
        'Δ/Δ*',
        'margin',
    }
    assert wanted <= reached


def test_enter_on_a_layer_shows_it(page):
    button = page.browser.find_element(
        By.XPATH, '//table[@id="layers"]//button[contains(., "fpn_convs")]'
    )
    button.send_keys(Keys.ENTER)
    about = "document.getElementById('about').textContent"
    wait(page, f"{about}.startsWith('neck.fpn_convs')", 'the layer is not shown')


def test_everything_has_a_name(page):
    nameless = ask(
        page,
        """[...document.querySelectorAll('select, input, button')].filter((e) =>
             !e.textContent.trim() && !e.labels?.length && !e.ariaLabel).length""",
    )
    assert nameless == 0
    assert (
        'cloud' not in ask(page, 'document.body.innerHTML').split('<script')[0].lower()
    )
    labels = ask(
        page,
        "[...document.querySelectorAll('[role=img]')].map(e => e.ariaLabel)",
    )
    assert len(labels) == 3
    assert all(labels)
    assert ask(page, 'document.documentElement.lang') == 'en'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_has_contrast(page, scheme):
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    page.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
    script = """
        const css = (name) => getComputedStyle(document.documentElement)
          .getPropertyValue(name).trim();
        return ['--paper', '--tint', '--ink', '--faint', '--accent', '--good', '--bad',
          '--look'].map(css)"""
    paper, tint, *inks = map(luminance, page.browser.execute_script(script))
    for ink in inks:
        for ground in (paper, tint):
            low, high = sorted([ink, ground])
            assert (high + 0.05) / (low + 0.05) >= 4.5
    # The figures follow.
    drawn = "document.getElementById('one').layout.paper_bgcolor"
    paper = page.browser.execute_script(script)[0]
    wait(page, f'{drawn} === {paper!r}', 'the figure keeps its colours')


def luminance(colour):
    """Relative luminance of #rrggbb, as WCAG defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize('width', [390, 768, 1280])
def test_nothing_overflows(page, width):
    page.browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': width == 390},
    )
    script = (
        'document.documentElement.scrollWidth <= window.innerWidth'
        f' && window.innerWidth === {width}'
    )
    wait(page, script, f'wider than {width} pixels')
    for graph in ('heat', 'all', 'one'):
        wait(
            page,
            f"document.querySelector('#{graph} .main-svg').clientWidth <= {width}",
            '',
        )
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_touching_the_heat_map_names_the_layer(page):
    """On a phone no names stand beside the rows, and a finger covers them."""
    phone = {'width': 390, 'height': 800, 'deviceScaleFactor': 1, 'mobile': True}
    page.browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', phone)
    page.browser.execute_cdp_cmd(
        'Emulation.setTouchEmulationEnabled', {'enabled': True}
    )
    page.browser.refresh()
    ready(page.browser)
    page.find('heat').location_once_scrolled_into_view  # noqa: B018
    told = "document.getElementById('touched').innerText"

    def named(row):
        """Touch a row, wherever the page has put it by now; is its layer named?"""
        x, y = page.browser.execute_script(
            """
            const area = document.querySelector('#heat .nsewdrag');
            const box = area.getBoundingClientRect();
            const row = (arguments[0] + 0.5) / 5;
            return [box.x + box.width * 0.7, box.y + box.height * row]
            """,
            row,
        )
        touch = {'type': 'touchStart', 'touchPoints': [{'x': x, 'y': y}]}
        page.browser.execute_cdp_cmd('Input.dispatchTouchEvent', touch)
        end = {'type': 'touchEnd', 'touchPoints': []}
        page.browser.execute_cdp_cmd('Input.dispatchTouchEvent', end)
        return ask(page, f'{told}.startsWith({NAMES[row]!r})')

    for row in (3, 0):
        WebDriverWait(page.browser, 20).until(
            lambda b, row=row: named(row), 'the layer is not named'
        )
        assert re.search(r'Δ/Δ\* [\d.]+', page.find('touched').text)
    assert page.find('about').text.startswith(NAMES[0])
    scrolled = ask(page, 'window.scrollY')
    page.find('see').click()
    wait(page, f'window.scrollY > {scrolled}', 'the layer is not shown')
    page.browser.execute_cdp_cmd(
        'Emulation.setTouchEmulationEnabled', {'enabled': False}
    )
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_a_heat_map_of_few_rows_keeps_its_height(page):
    """Where the window changes; its element kept room for a higher one."""
    height = "document.getElementById('heat').offsetHeight"
    drawn = "document.querySelector('#heat .main-svg').clientHeight"
    rows = 5 * 28 + 44 + 42
    for width in (1280, 1000, 1200):
        page.browser.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride',
            {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': False},
        )
        page_width = "document.querySelector('#heat .main-svg').clientWidth"
        wait(page, f'Math.abs({page_width} - {min(width, 1120)}) < 50', 'not resized')
        assert ask(page, height) == ask(page, drawn) == rows
    page.browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_pictures_are_told_in_words(page):
    """What they show at the end, by the names of the layers."""
    for scale in ('angle', 'ratio'):
        Select(page.find('scale')).select_by_value(scale)
        data = json.loads(page.find('data').get_attribute('textContent'))
        ends = next(q['ends'] for q in data['quantities'] if q['series'] == scale)
        wait(
            page,
            f'document.getElementById("all").ariaLabel.includes({ends[0][0]!r})',
            '',
        )
        label = page.find('all').get_attribute('aria-label')
        assert 'a line for each of 5 layers over 1500 iterations' in label
        assert label.index(ends[0][0]) < label.index(ends[2][0])
    assert 'lowest' in page.find('heat').get_attribute('aria-label')
    assert 'Δ/Δ*' in page.find('one').get_attribute('aria-label')


def test_warm_up_is_called_so(browser, tmp_path):
    records = simulated(lr=np.linspace(1e-3, 0.05, 60))
    file = tmp_path / 'report.html'
    file.write_text(render_page(run_of(records, 'warm-up')), 'utf-8')
    page = open_page(browser, file)
    assert ' at the end of warm-up, ' in page.find('about').text
    assert page.find('stage').text.strip() == 'warm-up'
    assert 'stage -1' not in ask(page, 'document.body.innerText')


def test_a_conclusion_that_fails_is_not_folded(browser, tmp_path):
    """The walk's gradient has a part along the weight, which Lemma 1 denies."""
    records = simulated(NAMES[:2], lr=np.full(600, 0.05), radial=0.3)
    report = run_of(records, 'oblique')
    file = tmp_path / 'report.html'
    file.write_text(render_page(report), 'utf-8')
    page = open_page(browser, file)
    failing = [c for c in checks(page, 'lemma_1') if c[2] == 'fails']
    assert len(failing) == 2
    Select(page.find('check')).select_by_value('lemma_1')
    assert len(rows(page, 'checks')) == 3
