"""Driving the page in a headless Chromium, as a person would."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.server import ServerProcess

PROMPT = "写出医生的下一句回复：\n患者：咽痛有半个月了\n答："
# min_tokens: with ignore_eos a model may well say nothing but its end, which is not shown
LONG = {"max_tokens": "400", "temperature": "1", "seed": "1", "advanced": '{"min_tokens": 400}'}
ENDLESS = LONG | {"max_tokens": "3500", "advanced": '{"min_tokens": 3500}'}
Before = Callable[[Page], None]
LIMIT_MS = 60_000
START_LIMIT_MS = 120_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Without one the tests are skipped, but not in CI, where they fail."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no Chromium: install Debian's package chromium to test the page")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=arguments, timeout=START_LIMIT_MS
        )
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """The page, open in a window of its own; it notes what no page should do."""

    def __init__(self, browser: Browser, url: str, before: Before | None, **window: Any) -> None:
        window = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | window
        self.context = browser.new_context(**window)
        self.context.set_default_timeout(LIMIT_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda asked: self.hosts.add(urlsplit(asked.url).netloc))
        if before:
            before(self.page)
        self.page.goto(url)

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def forgive(self, status: int) -> None:
        """Chromium itself reports every refused request: these were meant."""
        assert self.complaints, f"nothing was refused with {status}"
        self.complaints = [text for text in self.complaints if f"status of {status}" not in text]

    def field(self, name: str) -> Locator:
        return self.page.locator(f'.field[data-field="{name}"]')

    def fill(self, **fields: str) -> None:
        for name, text in fields.items():
            self.field(name).locator("input, textarea").fill(text)

    def choose_mode(self, name: str) -> None:
        self.page.locator(f'#modes label:has([value="{name}"])').click()

    def card(self, selector: str) -> Locator:
        """A part of the card that is shown."""
        return self.page.locator(f"article:not([hidden]) {selector}")

    def send(self, prompt: str) -> None:
        self.page.locator("#text").fill(prompt)
        self.page.keyboard.press("Control+Enter")

    def wait_for_end(self, outcome: str) -> None:
        expect(self.card(".progress")).to_have_text(re.compile(f"^{outcome}"))

    def answer(self) -> str:
        return self.card(".answer .text").last.text_content() or ""

    def ask(self, prompt: str, **fields: str) -> str:
        """Send once the service is known to be ready, wait for the end; the text of the answer."""
        expect(self.page.locator("#send")).to_be_enabled()
        self.fill(**fields)
        self.send(prompt)
        self.wait_for_end("Done")
        return self.answer()


@contextmanager
def visiting(
    browser: Browser,
    server: ServerProcess,
    before: Before | None = None,
    *,
    wait: bool = True,
    **window: Any,
) -> Iterator[Visit]:
    """The page. In the end nothing was said on its console, and no other host was asked."""
    visit = Visit(browser, server.url, before, **window)
    try:
        if wait:
            expect(visit.page.locator("#send")).to_be_enabled()
        yield visit
        assert not visit.complaints
        assert visit.hosts == {urlsplit(server.url).netloc}
    finally:
        visit.context.close()
