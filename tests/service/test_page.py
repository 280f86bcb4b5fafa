"""GET /: what is served, and that the page's files agree with one another."""

import re

import httpx
import pytest

from service.page import CONTENT_TYPES, HEADERS, HERE

pytestmark = pytest.mark.anyio
# compiled Python may lie beside them
FILES = [path for path in HERE.iterdir() if path.is_file() and path.suffix != ".py"]
SOURCES = {path.name: path.read_text("utf-8") for path in FILES}
SCRIPTS = {name: text for name, text in SOURCES.items() if name.endswith(".js")}


async def test_every_file_is_served_with_its_type_and_the_policy(client: httpx.AsyncClient) -> None:
    paths = {"/": "index.html"} | {f"/page/{name}": name for name in CONTENT_TYPES}
    del paths["/page/index.html"]
    for path, name in paths.items():
        answer = await client.get(path)
        assert answer.status_code == 200, name
        assert answer.headers["content-type"] == f"{CONTENT_TYPES[name]}; charset=utf-8"
        assert answer.text == SOURCES[name]
        assert {key: answer.headers[key] for key in HEADERS} == HEADERS
    assert set(paths.values()) == set(SOURCES), "a file of the page is not served"


async def test_the_policy_lets_only_our_own_files_run(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/page/", "/page/__init__.py", "/page/nothing.js"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


async def test_the_page_is_no_part_of_the_api_document(client: httpx.AsyncClient) -> None:
    assert not {"/", "/page/main.js"} & set((await client.get("/openapi.json")).json()["paths"])


def test_every_file_that_is_named_exists() -> None:
    page = SOURCES["index.html"]
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', page))
    for text in SCRIPTS.values():
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named == set(SOURCES) - {"index.html"}


def test_no_file_names_another_host_or_runs_inline_code() -> None:
    for name, text in SOURCES.items():
        foreign = re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+", text)
        assert set(foreign) <= {"http://www.w3.org"}, name  # the name of SVG, not an address
        assert not re.search(r"\binnerHTML|\bouterHTML|insertAdjacentHTML|\beval\(", text), name
    assert not re.search(r"<style|style=|<script>|\son\w+=", SOURCES["index.html"])


def test_every_word_is_there_in_both_languages_and_used() -> None:
    strings = SCRIPTS["strings.js"]
    tables = re.findall(r"^  (en|zh): \{\n(.*?)^  \},", strings, re.MULTILINE | re.DOTALL)
    keys = {
        language: set(re.findall(r"^    (\w+): \"", table, re.MULTILINE))
        for language, table in tables
    }
    assert keys["en"] == keys["zh"] != set()
    named = set(re.findall(r'data-t(?:-placeholder|-label)?="(\w+)"', SOURCES["index.html"]))
    assert named <= keys["en"]
    code = "".join(text for name, text in SCRIPTS.items() if name != "strings.js")
    assert set(re.findall(r'(?:\bsay\(.*, |\bkey: )"(\w+)"', code)) <= keys["en"]
    states = {"loading", "draining", "dead", "ready"}  # as /readyz names them
    built = {"adapterNone", "presetNone", "other"} | states
    said = named | set(re.findall(r'"(\w+)"', code)) | built
    assert keys["en"] <= said, f"never said: {keys['en'] - said}"


def test_values_are_named_alike_in_both_languages() -> None:
    words = re.findall(r"^    (\w+): \"(.*)\",$", SCRIPTS["strings.js"], re.MULTILINE)
    values: dict[str, list[set[str]]] = {}
    for key, text in words:
        values.setdefault(key, []).append(set(re.findall(r"\{(\w+)\}", text)))
    assert not [key for key, (english, chinese) in values.items() if english != chinese]


def test_every_input_has_a_label() -> None:
    page = SOURCES["index.html"]
    ids = re.findall(r'<(?:input|select|textarea) id="([\w-]+)"', page)
    assert len(ids) >= 10
    assert not [name for name in ids if f'<label for="{name}"' not in page]


def test_scripts_are_short() -> None:
    assert not {name for name, text in SOURCES.items() if text.count("\n") > 300}
