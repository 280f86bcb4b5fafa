"""Adapters beside the model, and where ChatGLM-6B's marks must stand: without an engine."""

import asyncio
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from service.adapter import parse_adapters, smallest_supported_rank
from service.errors import InvalidRequestError
from service.machine.placement import Placement
from service.settings import Settings
from tests.service.conftest import Ask, ready
from tests.service.fake import FakeEngine

BOSS = {"Authorization": "Bearer boss"}


def write_adapter(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 8} | settings
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "config.json").write_text("{}")
    named = f"small={write_adapter(tmp_path / 'a')} big={write_adapter(tmp_path / 'b', r=20)}"
    return Settings(model=tmp_path, adapters=named)


@pytest.mark.anyio
async def test_a_request_names_its_adapter(ask: Ask, engine: FakeEngine) -> None:
    answer = await ask(prompt="头痛", parameters={"adapter": "big", "max_tokens": 2})
    assert answer.status_code == 200
    warm_up, request = engine.requests
    assert warm_up.adapter is None
    assert request.adapter is not None
    assert request.adapter.name == "big"


@pytest.mark.anyio
async def test_requests_do_not_read_the_adapters_again(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a/adapter_config.json").unlink()
    answer = await ask(prompt="头痛", parameters={"adapter": "big", "max_tokens": 2})
    assert answer.status_code == 200


@pytest.mark.anyio
async def test_an_unknown_adapter_is_refused_with_those_that_are_known(ask: Ask) -> None:
    answer = await ask(prompt="头痛", parameters={"adapter": "huge"})
    assert answer.status_code == 400
    assert answer.json()["param"] == "parameters.adapter"
    assert "known: small, big" in answer.json()["error"]


def test_ranks_get_the_smallest_room_that_holds_them(settings: Settings, tmp_path: Path) -> None:
    adapters = parse_adapters(settings.adapters)
    assert [(each.name, each.number) for each in adapters] == [("small", 1), ("big", 2)]
    assert smallest_supported_rank(adapters) == 32
    wide = write_adapter(tmp_path / "wide", rank_pattern={"q_proj": 64})
    assert smallest_supported_rank(parse_adapters(f"wide={wide}")) == 64


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("medical", "not name=directory"),
        ("a=NOWHERE", "cannot read it"),
        ("a=GOOD a=GOOD", "two adapters are called a"),
        ("a=PREFIX", "PREFIX_TUNING cannot be served beside the model"),
        ("a=EMPTY", "not a LoRA adapter's settings"),
        ("a/b=GOOD", "is not name=directory"),
        (".a=GOOD", "is not name=directory"),
        ("a=HUGE", "rank 600 cannot be served beside the model: merge it"),
    ],
)
def test_bad_adapters_stop_the_start(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    write_adapter(tmp_path / "GOOD")
    write_adapter(tmp_path / "PREFIX", peft_type="PREFIX_TUNING")
    write_adapter(tmp_path / "HUGE", r=600)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY/adapter_config.json").write_text("{}")
    words = [word.replace("=", f"={tmp_path}/") for word in text.split()]
    with pytest.raises(ValueError, match=part):
        Settings(model=tmp_path, adapters=" ".join(words))


def test_placement_follows_the_model_directory(tmp_path: Path) -> None:
    config = {"model_type": "llama", "pad_token_id": 7, "prefix_tokens": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Placement.read(tmp_path).apply([1, 2]) == [7, 7, 7, 1, 2]
    (tmp_path / "config.json").write_text("{}")
    assert Placement.read(tmp_path).apply([1, 2]) == [1, 2]


@pytest.mark.parametrize("ids", [[5], [5, 90], [90], [5, 80], [80, 5, 90], [80, 80, 90], [90, 80]])
def test_chatglm_prompts_whose_answer_has_no_one_beginning_are_refused(
    tmp_path: Path, ids: list[int]
) -> None:
    config = {"model_type": "chatglm_6b", "gmask_token_id": 80, "bos_token_id": 90}
    (tmp_path / "config.json").write_text(json.dumps(config))
    placement = Placement.read(tmp_path)
    assert placement.apply([5, 80, 90]) == [5, 80, 90]
    assert placement.apply([80, 90, 6, 90]) == [80, 90, 6, 90]  # the answer may hold anything
    with pytest.raises(InvalidRequestError, match="needs"):
        placement.apply(ids)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"7", b"null", b"\xff\xfe{", b"{}", b'{"peft_type": 7}',
        b'{"peft_type": null}', b'{"peft_type": "LORA", "r": "8"}',
        b'{"peft_type": "LORA", "r": 0}',
        b'{"peft_type": "LORA", "r": 8.5}', b'{"peft_type": "LORA", "r": 1e999}',
        b'{"peft_type": "LORA", "r": 8, "rank_pattern": [1]}',
        b'{"peft_type": "LORA", "r": 8, "rank_pattern": {"q": "x"}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
@pytest.mark.anyio
async def test_a_malformed_adapter_config_is_a_400(
    engine: FakeEngine, settings: Settings, tmp_path: Path, content: bytes
) -> None:
    settings.admin_keys, settings.max_adapters = "boss", 3
    folder = tmp_path / "malformed"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(content)
    async with ready(engine, settings) as client:
        answer = await client.post(
            "/admin/adapters", json={"name": "x", "path": str(folder)}, headers=BOSS
        )
        assert (answer.status_code, answer.json()["param"]) == (400, "path")
        assert "adapter_config.json" in answer.json()["error"]


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "0", "v1", "-", "x" * 64, "a..b"])
@pytest.mark.anyio
async def test_every_name_that_is_taken_can_be_unloaded(
    engine: FakeEngine, settings: Settings, tmp_path: Path, name: str
) -> None:
    settings.admin_keys, settings.max_adapters = "boss", 3
    body = {"name": name, "path": str(tmp_path / "a")}
    async with ready(engine, settings) as client:
        assert (await client.post("/admin/adapters", json=body, headers=BOSS)).status_code == 200
        gone = await client.delete(f"/admin/adapters/{name}", headers=BOSS)
        assert gone.json() == {"unloaded": name}


@pytest.mark.parametrize(
    "name", [".", "..", "...", ".a", "a/b", "a b", "", "x" * 65, "ü", "a\n", "%2e"]
)
@pytest.mark.anyio
async def test_a_name_that_no_path_can_hold_is_refused(
    engine: FakeEngine, settings: Settings, tmp_path: Path, name: str
) -> None:
    settings.admin_keys, settings.max_adapters = "boss", 3
    body = {"name": name, "path": str(tmp_path / "a")}
    async with ready(engine, settings) as client:
        answer = await client.post("/admin/adapters", json=body, headers=BOSS)
        assert (answer.status_code, answer.json()["param"]) == (400, "name")


@pytest.mark.anyio
async def test_the_fingerprint_covers_adapters_and_default_parameters(
    engine: FakeEngine, settings: Settings, tmp_path: Path
) -> None:
    async def info(changed: Settings) -> Any:
        async with ready(engine, changed) as client:
            return (await client.get("/info")).json()

    first, again = await info(settings), await info(settings)
    assert first["fingerprint"] == again["fingerprint"]
    warm = settings.model_copy(update={"default_parameters": {"temperature": 1.0}})
    assert (await info(warm))["fingerprints"]["parameters"] != first["fingerprints"]["parameters"]
    (tmp_path / "b/adapter_model.safetensors").write_bytes(b"other weights")
    trained = await info(settings)
    assert trained["fingerprint"] != first["fingerprint"]
    before, after = (told["fingerprints"]["adapters"] for told in (first, trained))
    assert before["big"] != after["big"]
    assert before["small"] == after["small"]


@pytest.mark.anyio
async def test_an_adapter_is_unloaded_once_the_list_that_uses_it_has_ended(
    engine: FakeEngine, settings: Settings
) -> None:
    settings.admin_keys = "boss"
    engine.seconds_to_take_in = 0.3
    async with ready(engine, settings) as client:
        body = {"prompt": ["一"] * 8, "parameters": {"adapter": "big", "max_tokens": 1}}
        asked = asyncio.create_task(client.post("/generate", json=body))
        while not engine.requests[1:]:  # noqa: ASYNC110 - the engine is a fake
            await asyncio.sleep(0.01)
        gone = await client.delete("/admin/adapters/big", headers=BOSS)
        assert gone.status_code == 200
        assert [one["error"] for one in (await asked).json()["results"]] == [None] * 8
        refused = await client.post("/generate", json=body)
        assert (refused.status_code, refused.json()["param"]) == (400, "parameters.adapter")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.anyio
async def test_a_refused_request_holds_no_adapter(
    engine: FakeEngine, settings: Settings, path: str
) -> None:
    """Refused for want of a place, for a wrong parameter, and for too many sequences."""
    settings.admin_keys, settings.max_queued_prompts, engine.max_num_seqs = "boss", 0, 1
    settings.served_name = "model"
    engine.seconds_a_token = 0.2
    async with ready(engine, settings) as client:
        held = {"prompt": "一", "parameters": {"max_tokens": 10}}
        holding = asyncio.create_task(client.post("/generate", json=held))
        while not engine.requests[1:]:  # noqa: ASYNC110 - the engine is a fake
            await asyncio.sleep(0.01)
        for many, status in (({}, 429), ({"n": 9, "temperature": 1}, 400)):
            ours = {"prompt": "一", "parameters": {"adapter": "big", **many}}
            theirs = {"model": "big", "prompt": "一", **many}
            body = ours if path == "/generate" else theirs
            assert (await client.post(path, json=body)).status_code == status
        async with asyncio.timeout(5):
            assert (await client.delete("/admin/adapters/big", headers=BOSS)).status_code == 200
        assert (await holding).status_code == 200


@pytest.mark.parametrize(
    ("own", "refused"), [(None, False), ("{{ a }}\n", False), ("{{ b }}", True)], ids=str
)
@pytest.mark.parametrize("in_config", [True, False])
@pytest.mark.anyio
async def test_an_adapter_of_another_chat_template_is_refused(
    own: str | None, *, in_config: bool, refused: bool, engine: FakeEngine, tmp_path: Path
) -> None:
    """Its prompts would be rendered otherwise than in training."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/chat_template.jinja").write_text("{{ a }}")
    adapter = write_adapter(tmp_path / "adapter")
    if own and in_config:
        (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))
    elif own:
        (adapter / "chat_template.jinja").write_text(own)
    model = tmp_path / "model"
    settings = Settings(
        model=model, max_adapters=1, max_adapter_rank=8, admin_keys="boss", api_keys="x"
    )
    async with ready(engine, settings) as client:
        body = {"name": "one", "path": str(adapter)}
        answer = await client.post("/admin/adapters", json=body, headers=BOSS)
    assert answer.status_code == (400 if refused else 200), answer.text
    told = r"another chat template .* merge the adapter"
    with pytest.raises(ValueError, match=told) if refused else nullcontext():
        Settings(model=model, adapters=f"one={adapter}")
