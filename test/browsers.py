"""A real browser, the Chromium of the system, for tests of pages."""

from __future__ import annotations

from contextlib import contextmanager
import shutil

import pytest

_ARGUMENTS = (
    '--no-sandbox',
    *('--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'),
    '--ignore-gpu-blocklist',  # WebGL on the CPU
)


@contextmanager
def chromium():
    """Playwright's browser; the test is skipped where one of the two is missing."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    program = shutil.which('chromium')
    if program is None:
        pytest.skip('chromium is not installed')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
