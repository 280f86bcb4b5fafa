"""The page follows a long answer, unless its reader has scrolled up."""

from playwright.sync_api import expect

from tests.e2e.page.browser import ENDLESS, LONG, PROMPT, Visit

FROM_THE_END = "element => element.scrollHeight - element.scrollTop - element.clientHeight"


def test_a_long_answer_is_followed_only_by_a_reader_at_its_end(visit: Visit) -> None:
    output = visit.card(".output")
    visit.ask(PROMPT, **LONG)
    assert output.evaluate("element => element.scrollTop") > 100
    assert output.evaluate(FROM_THE_END) < 5
    visit.fill(**ENDLESS)
    visit.send(PROMPT)
    expect(visit.page.locator("article.running")).to_be_visible()  # the earlier answer is gone
    while output.evaluate("element => element.scrollTop") < 100:
        visit.page.wait_for_timeout(20)
    output.evaluate("element => element.scrollTo(0, 0)")
    length = len(visit.answer())
    while len(visit.answer()) < length + 200:
        visit.page.wait_for_timeout(20)
    visit.page.keyboard.press("Escape")
    assert output.evaluate("element => element.scrollTop") == 0


def test_a_text_that_grows_by_itself_is_followed_like_one_that_is_written(visit: Visit) -> None:
    """As when a font comes late: the end stays in view, unless the reader has scrolled up."""
    output = visit.card(".output")
    visit.ask(PROMPT, **LONG)
    grow = "(element, size) => { element.querySelector('.text').style.fontSize = size }"
    height = output.evaluate("element => element.scrollHeight")
    output.evaluate(grow, "2rem")
    visit.page.wait_for_function("before => document.querySelector('article:not([hidden]) .output')"
                                 ".scrollHeight > before + 100", arg=height)  # fmt: skip
    visit.page.wait_for_timeout(200)
    assert output.evaluate(FROM_THE_END) < 5
    output.evaluate("element => element.scrollTo(0, 0)")
    output.evaluate(grow, "3rem")
    visit.page.wait_for_timeout(200)
    assert output.evaluate("element => element.scrollTop") == 0
