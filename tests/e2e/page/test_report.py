"""The client's report in a real browser: every width, light and dark, nothing asked of anybody."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from client.promptcblue.gold import read_files
from client.report import report
from tests.e2e.page.browser import LIMIT_MS
from tests.paths import SCORING

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
INK = "getComputedStyle(document.body).color"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    gold, made, other = (
        SCORING / f"{name}.predictions.jsonl"
        for name in ("v00_perfect", "v05_empty_half", "v08_punct_width")
    )
    report(*read_files(gold, [made, other]), output)
    return output


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [340, 390, 1280])
def test_it_fits_shows_everything_and_complains_of_nothing(
    browser: Browser, page: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    window = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, java_script_enabled=True
    )
    window.set_default_timeout(LIMIT_MS)
    tab = window.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    expect(tab.locator(".intervals .line")).to_have_count(18)  # tasks, their mean, the scale
    for fold in tab.locator("body > details").all():
        fold.locator("summary").first.click()
    for inner in tab.locator("details details").all():
        inner.locator("summary").click()
    expect(tab.locator("table.confusion").first).to_be_visible()
    expect(tab.locator(".sides").first).to_be_visible()
    assert tab.evaluate(OVERFLOW) == 0
    assert (tab.evaluate(INK) == "rgb(26, 29, 33)") == (scheme == "light")
    assert asked == [page.as_uri()]
    assert not said
    window.close()
