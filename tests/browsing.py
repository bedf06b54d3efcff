"""Chromium for the tests that look at pages.

Tests that need it are skipped where it is missing; tools/run_tests.sh installs it where
it can.
"""

import json
import shutil

import pytest

webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is missing')

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
DRIVER = shutil.which('chromedriver')
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='chromium or chromedriver is not installed'
)
FLAGS = (
    *('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'),
    *('--disable-background-networking', '--disable-component-update'),
    *('--disable-default-apps', '--disable-sync', '--no-first-run'),
    '--window-size=1280,900',
)


def open_browser():
    """A browser that keeps what pages log and ask the network for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability(
        'goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'}
    )
    return webdriver.Chrome(options, webdriver.chrome.service.Service(DRIVER))


def requests_of(browser):
    """What has been asked for since the last call."""
    messages = [
        json.loads(entry['message'])['message']
        for entry in browser.get_log('performance')
    ]
    return [
        message['params']['request']['url']
        for message in messages
        if message['method'] == 'Network.requestWillBeSent'
    ]


def set_size(browser, width, height=800):
    """A window of this size, of a phone where it is narrow."""
    browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {
            'width': width,
            'height': height,
            'deviceScaleFactor': 1,
            'mobile': width < 500,
        },
    )


def set_scheme(browser, scheme):
    """Light or dark, as the reader's system has it."""
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})
