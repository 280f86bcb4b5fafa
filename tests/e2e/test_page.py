"""The page at GET /, in a real browser on the real engine."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browser import Visit, visiting
from tests.server import ServerProcess, serving

PROMPT = "写出医生的下一句回复：\n患者：咽痛有半个月了\n答："
LONG = {"max_tokens": "400", "temperature": "1", "seed": "1", "advanced": '{"ignore_eos": true}'}
ENDLESS = LONG | {"max_tokens": "3500"}
WATCH_LENGTHS = """() => {
  window.lengths = [];
  const output = document.querySelector("article:not([hidden]) .output");
  const look = () => window.lengths.push(output.textContent.length);
  new MutationObserver(look).observe(output, {subtree: true, childList: true, characterData: true});
}"""
FROM_THE_END = "element => element.scrollHeight - element.scrollTop - element.clientHeight"


@pytest.fixture
def visit(browser: Browser, server: ServerProcess) -> Iterator[Visit]:
    with visiting(browser, server) as open_page:
        yield open_page


def test_an_answer_grows_and_is_the_one_that_generate_gives(
    visit: Visit, server: ServerProcess
) -> None:
    visit.page.evaluate(WATCH_LENGTHS)
    shown = visit.ask(PROMPT, max_tokens="400", advanced='{"ignore_eos": true}')
    direct = server.generate(PROMPT, max_tokens=400, ignore_eos=True)
    assert shown == direct["generated_text"]
    lengths = visit.page.evaluate("window.lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    facts = visit.card(".facts")
    expect(facts).to_contain_text(f"{direct['usage']['prompt_tokens']} in, 400 out")
    expect(facts).to_contain_text(re.compile(r"[\d.]+ s.*[\d.]+ tokens/s.*length.*[0-9a-f]{32}"))


def test_several_outputs_are_shown_side_by_side(visit: Visit, server: ServerProcess) -> None:
    visit.ask(PROMPT, temperature="1", seed="3", advanced='{"n": 2}')
    direct = server.generate(PROMPT, temperature=1, seed=3, n=2)
    texts = [output["generated_text"] for output in direct["outputs"]]
    assert visit.card(".answer .text").all_text_contents() == texts


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_frees_the_engine(visit: Visit, server: ServerProcess, by: str) -> None:
    visit.fill(**ENDLESS)
    visit.send(PROMPT)
    expect(visit.card(".answer .text")).to_have_text(re.compile("."))
    wait_for_running(server, 1)
    if by == "button":
        visit.page.locator("#stop").click()
    else:
        visit.page.keyboard.press("Escape")
    wait_for_running(server, 0)
    visit.wait_for_end("Stopped")
    assert visit.answer()
    expect(visit.page.locator("#send")).to_be_visible()
    if by == "button":
        expect(visit.page.locator("#send")).to_be_focused()


def wait_for_running(server: ServerProcess, count: int) -> None:
    deadline = time.monotonic() + 60
    while server.metric("vllm:num_requests_running") != count:
        assert time.monotonic() < deadline, f"num_requests_running did not become {count}"
        time.sleep(0.1)


def test_a_long_answer_is_followed_only_by_a_reader_at_its_end(visit: Visit) -> None:
    output = visit.card(".output")
    visit.ask(PROMPT, **LONG)
    assert output.evaluate("element => element.scrollTop") > 100
    assert output.evaluate(FROM_THE_END) < 5
    visit.fill(**ENDLESS)
    visit.send(PROMPT)
    while output.evaluate("element => element.scrollTop") < 100:
        visit.page.wait_for_timeout(20)
    output.evaluate("element => element.scrollTo(0, 0)")
    length = len(visit.answer())
    while len(visit.answer()) < length + 200:
        visit.page.wait_for_timeout(20)
    visit.page.keyboard.press("Escape")
    assert output.evaluate("element => element.scrollTop") == 0


def test_a_bad_parameter_is_told_at_its_field(visit: Visit) -> None:
    visit.fill(temperature="5")
    visit.send(PROMPT)
    visit.wait_for_end("Failed")
    visit.forgive(400)
    expect(visit.card(".failure")).to_contain_text("less than or equal to 2")
    expect(visit.card(".failure .where")).to_contain_text("field parameters.temperature")
    expect(visit.field("temperature")).to_contain_text("less than or equal to 2")
    assert visit.field("temperature").locator("input").get_attribute("aria-invalid") == "true"
    visit.fill(temperature="", advanced='{"no_such": 1}')
    visit.send(PROMPT)
    expect(visit.field("advanced").locator(".problem")).not_to_be_empty()
    visit.wait_for_end("Failed")
    visit.forgive(400)
    expect(visit.card(".failure .where")).to_contain_text("field parameters.no_such")


def test_what_cannot_be_sent_is_told_without_a_request(visit: Visit) -> None:
    visit.fill(top_p="half", seed="1.5", advanced="{top_k: 1}")
    visit.send(" ")
    expect(visit.field("top_p")).to_contain_text("Not a number.")
    expect(visit.field("seed")).to_contain_text("Whole numbers only.")
    expect(visit.field("advanced")).to_contain_text("Not JSON")
    expect(visit.field("prompt")).to_contain_text("Write something first.")
    expect(visit.card(".curl")).to_be_hidden()
    visit.page.locator("#reset").click()
    visit.ask(PROMPT, max_tokens="2")


def test_the_copied_command_gives_the_same_answer(browser: Browser, server: ServerProcess) -> None:
    prompt = 'It\'s "50 %" of $HOME, `pwd` \\ 感冒\n\u202e!!\t答：'
    with visiting(browser, server, permissions=["clipboard-read", "clipboard-write"]) as visit:
        shown = visit.ask(prompt, max_tokens="30", temperature="1", seed="7", stop="\\n\\n")
        visit.card(".curl summary").click()
        visit.card(".copy").click()
        expect(visit.card(".copy")).to_have_text("Copied")
        command = visit.page.evaluate("navigator.clipboard.readText()")
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    *_, end, done = [line for line in ran.stdout.split("\n\n") if line]
    assert done == "data: [DONE]"
    assert json.loads(end.removeprefix("data: "))["generated_text"] == shown != ""


def test_the_words_follow_the_browser_and_the_switch(
    browser: Browser, server: ServerProcess
) -> None:
    with visiting(browser, server, locale="zh-CN") as visit:
        page = visit.page
        expect(page.locator("#send")).to_have_text("发送")
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        page.locator("#language").click()
        expect(page.locator("#send")).to_have_text("Send")
        expect(page.locator("#state")).to_have_text("Ready")
        page.reload()
        expect(page.locator("#send")).to_have_text("Send")
        expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: Browser, server: ServerProcess, locale: str
) -> None:
    phone: dict[str, Any] = {"is_mobile": True, "has_touch": True}
    phone["viewport"] = {"width": 360, "height": 740}
    with visiting(browser, server, locale=locale, **phone) as visit:
        page = visit.page
        page.locator("#text").fill("W" * 300)
        page.locator("#send").tap()
        expect(visit.card(".facts")).to_be_visible()
        visit.card(".curl summary").tap()
        page.locator("#parameters summary").tap()
        # Of a checkbox or a radio button it is the label that is tapped.
        tapped = "button, select, textarea, summary, header a, label:has(input), input[inputmode]"
        boxes = [element.bounding_box() for element in page.locator(tapped).all()]
        assert min(box["height"] for box in boxes if box and box["width"]) >= 44
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        visit.choose_mode("chat")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_chosen_adapter_answers(browser: Browser, demo: Path, logs: Path) -> None:
    served = {"adapters": f"medical={demo / 'adapter'}"}
    with serving(demo / "base", logs / "page-adapter.log", **served) as server:
        with visiting(browser, server) as visit:
            without = visit.ask(PROMPT, max_tokens="40")
            visit.page.locator("#adapter").select_option("medical")
            with_it = visit.ask(PROMPT, max_tokens="40")
        assert without == server.generate(PROMPT, max_tokens=40)["generated_text"]
        direct = server.generate(PROMPT, max_tokens=40, adapter="medical")["generated_text"]
        assert with_it == direct != without


def test_there_is_no_choice_of_adapters_when_none_is_served(visit: Visit) -> None:
    expect(visit.field("adapter")).to_be_hidden()
    expect(visit.field("preset")).to_be_hidden()
