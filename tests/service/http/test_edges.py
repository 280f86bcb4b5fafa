"""What clients, proxies and load balancers do that no test of ours would think of."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.requests import GenerateRequest
from service.app import create_app
from service.http.bodies import WITH_BODY
from service.http.server import Server
from service.keys import Keys
from service.parameters import Parameters
from service.settings import Settings
from tests.service.conftest import ready
from tests.service.fake import FakeEngine

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}
BODY = json.dumps({"prompt": "感冒", "parameters": {"max_tokens": 2}}).encode()


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/health", "/is_ready", "/metrics", "/info", "/version", "/"]
)
async def test_a_head_is_answered_as_a_get_without_its_body(
    client: httpx.AsyncClient, path: str
) -> None:
    get, head = await client.get(path), await client.head(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_a_head_of_a_route_that_only_takes_posts_is_refused(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.head("/generate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


OPTIONAL = [name for name, field in Parameters.model_fields.items() if not field.is_required()]


@pytest.mark.parametrize("name", OPTIONAL)
async def test_null_stands_for_the_default_of_a_parameter(
    client: httpx.AsyncClient, engine: FakeEngine, name: str
) -> None:
    for parameters in ({}, {name: None}):
        body = {"prompt": "感冒", "parameters": parameters}
        assert (await client.post("/generate", json=body)).status_code == 200
    one, other = engine.requests[-2:]
    assert (one.sampling, one.adapter, one.priority) == (other.sampling, other.adapter, 0)


@pytest.mark.parametrize("path", ["/generate", "/tokenize"])
@pytest.mark.parametrize("more", [{"parameters": None}, {"stream": None}, {"input": None},
                                  {"raw": None}])  # fmt: skip
async def test_null_stands_for_the_default_of_a_body(
    client: httpx.AsyncClient, path: str, more: dict[str, Any]
) -> None:
    known = "raw" in more if path == "/tokenize" else "raw" not in more
    answer = await client.post(path, json={"prompt": "感冒", **more})
    assert answer.status_code == (200 if known else 400), answer.text


def test_null_is_in_the_document_wherever_it_is_taken() -> None:
    schema = GenerateRequest.model_json_schema()
    for fields in (schema["properties"], schema["$defs"]["Parameters"]["properties"]):
        for name, field in fields.items():
            assert {"type": "null"} in field["anyOf"], name


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=UTF-8",
        "APPLICATION/JSON",
        "application/ld+json",
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
async def test_json_is_taken_under_all_its_names(
    client: httpx.AsyncClient, kind: str, mark: bytes
) -> None:
    answer = await client.post("/generate", content=mark + BODY, headers={"content-type": kind})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", [*sorted(WITH_BODY - {"/admin/adapters"}), "/v1/completions"])
@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application", "*/*"])
async def test_another_content_type_is_refused_by_its_name(
    client: httpx.AsyncClient, path: str, kind: str
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await client.post(path, content=BODY, headers=headers)
    assert answer.status_code == 400
    assert "Content-Type" in answer.text


async def test_a_compressed_body_is_no_json(client: httpx.AsyncClient) -> None:
    headers = {**JSON, "content-encoding": "gzip"}
    answer = await client.post("/generate", content=gzip.compress(BODY), headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (400, "body")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/livez", 405),
        ("GET", "/livez", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/", 405),
        ("POST", "/nowhere", 404),
        ("PUT", "/generate", 405),
        ("DELETE", "/admin/adapters/a", 404),
        ("GET", "/v1/models", 200),
    ],
)
async def test_bodies_of_routes_that_take_none_are_not_read(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path, content=b" " * 200_000)  # beyond the limit
    assert answer.status_code == status
    assert answer.headers["connection"] == "close"


async def test_every_route_with_a_body_is_known_to_the_gate(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    posts = {path for path, item in document["paths"].items() if "post" in item}
    assert posts == WITH_BODY


@pytest.mark.parametrize("path", ["/generate/", "/livez/"])
async def test_a_redirect_keeps_the_scheme_and_host_of_the_proxy(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(f"{path}?a=1", headers={"host": "inside:8000"})
    assert answer.status_code == 307
    assert answer.headers["location"] == path.rstrip("/") + "?a=1"


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        ("key-1\nkey-2\n".encode("utf-8-sig"), ["key-1", "key-2"], ["\ufeffkey-1"]),
        ("key-1\r\nkey-2\r\n".encode("utf-16"), ["key-1", "key-2"], []),
        (b"# note\n\n  key-1  \n", ["key-1"], ["# note", ""]),
        ("schlüssel\n钥匙\n".encode(), ["schlüssel", "钥匙"], ["schlussel"]),
    ],
    ids=["byte order mark", "UTF-16", "notes", "beyond ASCII"],
)
async def test_key_files_of_every_editor_are_read(
    engine: FakeEngine,
    settings: Settings,
    tmp_path: Path,
    content: bytes,
    good: list[str],
    bad: list[str],
) -> None:
    settings.api_key_file = tmp_path / "keys"
    settings.api_key_file.write_bytes(content)
    async with ready(engine, settings) as client:
        for keys, status in ((good, 200), (bad, 401)):
            for key in keys:
                headers = [(b"authorization", f"Bearer {key}".encode())]
                assert (await client.get("/version", headers=headers)).status_code == status, key


@pytest.mark.parametrize("content", [b"key-\xff\n", b"\0\0", b"\xff\xfek"])
def test_a_key_file_that_is_no_text_is_refused_at_the_start_and_passed_over_later(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=str(file)):
        Settings(model=_model(tmp_path), api_key_file=file)
    file.write_text("one\n")
    keys = Keys("", file)
    file.write_bytes(content + b"longer")
    assert keys.accept("Bearer one")
    assert str(file) in caplog.text


def _model(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


async def test_the_docs_load_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("mergeline: the HTTP API", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        answer = await client.get(f"/{name}")
        assert (answer.status_code, bool(answer.content)) == (200, True), name
    for name in ("../app.py", "..%2f..%2fapp.py", "nothing.js"):
        assert (await client.get(f"/docs/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("192.0.2.7", "", True),
        ("node-1", "", True),
        ("0.0.0.0", "key", False),
        ("127.0.0.1", "", False),
        ("127.0.0.9", "", False),
        ("::1", "", False),
        ("localhost", "", False),
    ],
)
def test_a_server_without_keys_that_strangers_reach_says_so(
    engine: FakeEngine, settings: Settings, caplog: pytest.LogCaptureFixture, host: str, keys: str,
    warned: bool,
) -> None:  # fmt: skip
    settings.host, settings.api_keys = host, keys
    Server(create_app(engine, settings), settings)
    assert ("without API keys" in caplog.text) == warned
