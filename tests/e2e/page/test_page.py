"""The page at GET /, in a real browser on the real engine."""

import itertools
import json
import os
import re
import subprocess
import time
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from tests.e2e.conftest import KEYS
from tests.e2e.page.browser import ENDLESS, PROMPT, Visit, visiting
from tests.server import ServerProcess

WATCH_LENGTHS = """() => {
  window.lengths = [];
  const output = document.querySelector("article:not([hidden]) .output");
  const look = () => window.lengths.push(output.textContent.length);
  new MutationObserver(look).observe(output, {subtree: true, childList: true, characterData: true});
}"""


def test_an_answer_grows_and_is_the_one_that_generate_gives(
    visit: Visit, server: ServerProcess
) -> None:
    visit.page.evaluate(WATCH_LENGTHS)
    shown = visit.ask(PROMPT, max_tokens="400", advanced='{"min_tokens": 400}')
    direct = server.generate(PROMPT, max_tokens=400, min_tokens=400)
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
        at_least = {"advanced": '{"min_tokens": 5}'}
        shown = visit.ask(
            prompt, max_tokens="30", temperature="1", seed="7", stop="\\n\\n", **at_least
        )
        visit.card(".curl summary").click()
        visit.card(".copy").click()
        expect(visit.card(".copy")).to_have_text("Copied")
        command = visit.page.evaluate("navigator.clipboard.readText()")
    assert answer_of(command) == shown != ""


def answer_of(command: str, **variables: str) -> str:
    """What the shell gets from POST /generate."""
    ran = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=True,
        env=os.environ | variables,
    )  # fmt: skip
    *_, end, done = [line for line in ran.stdout.split("\n\n") if line]
    assert done == "data: [DONE]"
    return str(json.loads(end.removeprefix("data: "))["generated_text"])


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


def test_a_conversation_goes_on_from_its_turns(visit: Visit, server: ServerProcess) -> None:
    visit.choose_mode("chat")
    first = visit.ask(PROMPT, max_tokens="40")
    assert first == server.generate(PROMPT, max_tokens=40)["generated_text"]
    second = visit.ask("感冒")
    turns = [("user", PROMPT), ("assistant", first), ("user", "感冒")]
    messages = [{"role": role, "content": content} for role, content in turns]
    body = {"model": "model", "messages": messages, "max_tokens": 40, "temperature": 0}
    direct = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).json()
    assert second == direct["choices"][0]["message"]["content"]
    expect(visit.card(".facts")).to_contain_text(f"{direct['usage']['prompt_tokens']} in, ")


def test_a_preset_goes_along_by_name(visit: Visit) -> None:
    visit.page.locator("#preset").select_option("promptcblue-baseline")
    visit.ask(PROMPT, max_tokens="2")
    expect(visit.card(".curl pre")).to_contain_text('"preset": "promptcblue-baseline"')


def test_there_is_no_choice_of_adapters_when_none_is_served(visit: Visit) -> None:
    expect(visit.field("adapter")).to_be_hidden()


KEY = KEYS["client"]


def give_key(visit: Visit, key: str) -> None:
    visit.page.locator("#key").fill(key)
    visit.page.keyboard.press("Enter")


def test_a_key_is_asked_for_and_stays_in_the_tab(browser: Browser, keyed: ServerProcess) -> None:
    with visiting(browser, keyed, wait=False) as visit:
        page = visit.page
        for key in ("wrong", "错的"):  # the second fits in no header
            give_key(visit, key)
            expect(page.locator("#key-form")).to_be_visible()
            expect(page.locator("#key-hint")).to_have_text("The service refused this key.")
        give_key(visit, KEY)
        shown = visit.ask("感冒", max_tokens="9")
        assert KEY not in page.content()
        assert page.evaluate("JSON.stringify({...localStorage})") == "{}"
        command = visit.card(".curl pre").text_content() or ""
        assert answer_of(command, API_KEY=KEY) == shown
        page.reload()
        expect(page.locator("#state")).to_have_text("Ready")
        page.locator("#forget").click()
        expect(page.locator("#key-form")).to_be_visible()
        visit.forgive(401)


def test_a_late_refusal_of_an_earlier_key_forgets_no_later_one(
    browser: Browser, keyed: ServerProcess
) -> None:
    held: list[Route] = []

    def hold_the_wrong_key(route: Route) -> None:
        if "wrong" in route.request.headers.get("authorization", ""):
            held.append(route)
        else:
            route.continue_()

    with visiting(browser, keyed, wait=False) as visit:
        visit.page.route("**/info", hold_the_wrong_key)
        expect(visit.page.locator("#key-form")).to_be_visible()
        with visit.page.expect_request(
            lambda asked: "wrong" in asked.headers.get("authorization", "")
        ):
            give_key(visit, "wrong")
        visit.page.evaluate("document.querySelector('#key-form').hidden = false")
        give_key(visit, KEY)
        expect(visit.page.locator("#state")).to_have_text("Ready")
        assert held
        for late in held:  # the page asks again where an answer takes long
            with visit.page.expect_response(lambda answer: answer.status == 401):
                late.continue_()
        visit.ask("感冒", max_tokens="9")
        visit.forgive(401)


def test_the_chosen_adapter_answers(
    browser: Browser, keyed: ServerProcess, client: httpx.Client
) -> None:
    with visiting(browser, keyed, wait=False) as visit:
        give_key(visit, KEY)
        answers = {}
        for mode, adapter in itertools.product(("prompt", "chat"), ("", "medical")):
            visit.choose_mode(mode)
            visit.page.locator("#adapter").select_option(adapter)
            answers[mode, adapter] = visit.ask(PROMPT, max_tokens="40")
            if mode == "chat":
                visit.page.locator("#fresh").click()
        visit.forgive(401)
    for adapter in ("", "medical"):
        chosen = {"adapter": adapter} if adapter else {}
        body = {"prompt": PROMPT, "parameters": {"max_tokens": 40, **chosen}}
        direct = client.post("/generate", json=body).json()["generated_text"]
        assert answers["prompt", adapter] == answers["chat", adapter] == direct
    assert answers["prompt", ""] != answers["prompt", "medical"]
