"""The page with answers that no healthy server gives on demand: they are put in its place."""

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, expect

from tests.e2e.page.browser import Visit, visiting
from tests.server import ServerProcess

STREAM = {"content-type": "text/event-stream"}


def stream_of(*events: Any) -> str:
    """As the event stream standard allows: with comments and CRLF."""
    lines = [f"data: {json.dumps(event)}\r\n\r\n" for event in events]
    return ": accepted\r\n\r\n" + ": still here\n\n".join(lines)


def answering(path: str, body: str, status: int = 200) -> Callable[[Page], None]:
    """Let `path` be answered with `body`."""
    headers = STREAM if status == 200 else {"content-type": "application/json"}

    def prepare(page: Page) -> None:
        page.route(
            f"**/{path}", lambda route: route.fulfill(status=status, body=body, headers=headers)
        )

    return prepare


def test_a_page_that_is_opened_early_waits_until_the_model_is_loaded(
    browser: Browser, server: ServerProcess
) -> None:
    def prepare(page: Page) -> None:
        body = '{"state": "loading", "failure": null}'
        page.route("**/readyz", lambda route: route.fulfill(status=503, body=body))

    with visiting(browser, server, prepare, wait=False) as visit:
        state = visit.page.locator("#state")
        expect(state).to_have_text("Loading the model")
        expect(visit.page.locator("#send")).to_be_disabled()
        visit.send("感冒")
        expect(visit.field("prompt")).to_contain_text("not ready yet")
        visit.page.unroute("**/readyz")
        expect(state).to_have_text("Ready")
        visit.forgive(503)
        visit.ask("感冒", max_tokens="2")


def test_a_dead_service_is_told(browser: Browser, server: ServerProcess) -> None:
    body = '{"state": "dead", "failure": "the engine has died"}'
    with visiting(browser, server, answering("readyz", body, 503), wait=False) as visit:
        expect(visit.page.locator("#state")).to_have_text("Not available")
        expect(visit.page.locator("#state")).to_have_attribute("title", "the engine has died")
        visit.forgive(503)


def test_an_error_within_a_stream_leaves_the_text_before_it(
    browser: Browser, server: ServerProcess
) -> None:
    failure = {"error": "the engine has died", "param": None, "request_id": "abc"}
    body = stream_of({"index": 0, "text": "half"}, failure)
    with visiting(browser, server, answering("generate", body)) as visit:
        visit.send("感冒")
        expect(visit.card(".failure")).to_contain_text("the engine has died")
        expect(visit.card(".failure .where")).to_contain_text("request abc")
        assert visit.answer() == "half"


def test_a_stream_that_breaks_off_is_no_answer(browser: Browser, server: ServerProcess) -> None:
    body = stream_of({"index": 0, "text": "half"})
    with visiting(browser, server, answering("generate", body)) as visit:
        visit.send("感冒")
        expect(visit.card(".failure")).to_contain_text("lost before the answer was complete")


def test_what_a_model_writes_is_never_markup(browser: Browser, server: ServerProcess) -> None:
    text = "<img src=x onerror=alert(1)><script>alert(1)</script>**&amp;"
    end = {"generated_text": text, "finish_reason": "stop", "error": None}
    body = stream_of({"index": 0, "text": text}, end) + "data: [DONE]\n\n"
    with visiting(browser, server, answering("generate", body)) as visit:
        assert visit.ask("感冒") == text
        expect(visit.card(":is(img, script)")).to_have_count(0)


def chat_chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice], "usage": None}


def test_a_conversation_sends_every_turn(browser: Browser, server: ServerProcess) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    end = {"id": "chatcmpl-1", "choices": [], "usage": usage}
    body = stream_of(chat_chunk(""), chat_chunk("多喝"), chat_chunk("水", "stop"), end)
    prepare = answering("v1/chat/completions", body + "data: [DONE]\n\n")
    with visiting(browser, server, prepare) as visit:
        visit.choose_mode("chat")
        sent = [json.loads(chat(visit, text)) for text in ("感冒", "发烧")]
        assert visit.card(".text").all_text_contents() == ["感冒", "多喝水", "发烧", "多喝水"]
        expect(visit.card(".facts")).to_contain_text("5 in, 2 out")
        first = {"role": "user", "content": "感冒"}
        assert sent[0]["messages"] == [first]
        answer = {"role": "assistant", "content": "多喝水"}
        assert sent[1]["messages"] == [first, answer, {"role": "user", "content": "发烧"}]
        assert sent[1]["stream_options"] == {"include_usage": True}
        visit.page.locator("#fresh").click()
        assert json.loads(chat(visit, "头痛"))["messages"] == [{"role": "user", "content": "头痛"}]


def chat(visit: Visit, text: str) -> str:
    """The body that was sent; the answer is there then."""
    with visit.page.expect_request("**/v1/chat/completions") as asked:
        visit.ask(text)
    return asked.value.post_data or ""


def test_a_refused_turn_is_given_back_to_be_written_again(
    browser: Browser, server: ServerProcess
) -> None:
    error = {"message": "too hot", "type": "BadRequestError", "param": "temperature", "code": 400}
    prepare = answering("v1/chat/completions", json.dumps({"error": error}), 400)
    with visiting(browser, server, prepare) as visit:
        visit.choose_mode("chat")
        visit.send("感冒")
        expect(visit.card(".failure")).to_contain_text("too hot")
        expect(visit.field("temperature")).to_contain_text("too hot")
        expect(visit.page.locator("#text")).to_have_value("感冒")
        expect(visit.card("section")).to_have_count(0)
        visit.forgive(400)
