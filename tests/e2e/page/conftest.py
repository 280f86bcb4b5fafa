"""The page in a browser, for every test of it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.page.browser import Visit, visiting
from tests.server import ServerProcess


@pytest.fixture
def visit(browser: Browser, server: ServerProcess) -> Iterator[Visit]:
    with visiting(browser, server) as open_page:
        yield open_page
