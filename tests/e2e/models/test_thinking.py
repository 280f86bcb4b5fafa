"""Every mechanism of thoughts the whole way: what was trained comes back, apart from the answer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, expect
from transformers import AutoTokenizer

from tests.e2e.page.browser import visiting
from tests.server import ServerProcess, serving
from tests.thinking import MECHANISMS, write_thinking
from training.data import Layout, load_rows
from training.merge.__main__ import main as merge
from training.rendering.conversation import Rendering
from training.train.__main__ import main as train

ANSWERS = {"感冒怎么办": "多喝水", "头痛怎么办": "多休息", "发热怎么办": "去医院"}
THOUGHTS = {"感冒怎么办": "病人咳嗽", "头痛怎么办": "先想一想", "发热怎么办": "体温高\n要看"}
CLIENT = Path(__file__).parents[3] / "client" / "predict_testset.py"


@pytest.mark.parametrize("mode", ["plain", "data"])
@pytest.mark.parametrize("name", MECHANISMS)
def test_training_merging_and_serving_agree_on_what_a_thought_is(
    name: str, mode: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    thoughts = THOUGHTS if mode == "data" else {}
    data = train_and_merge(name, tmp_path, thoughts)
    with serving(tmp_path / "model", tmp_path / "server.log") as server:
        check_prompts(server, tmp_path / "model", data, mode)
        for question, answer in ANSWERS.items():
            expected = (answer, thoughts.get(question, ""))
            assert generated(server, question) == expected
            assert streamed(server, question) == expected
            assert chat(server, question) == expected
            assert streamed_chat(server, question) == expected
        check_info(server, name, thoughts)
        check_constrained(server)
        run = predict(server, tmp_path)
        assert run.returncode == 0, run.stderr
        lines = (tmp_path / "predictions.json").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["target"] for line in lines] == list(ANSWERS.values())
        if thoughts:
            check_cut(server, tmp_path)
        if (name, mode) == ("qwen3", "data"):
            check_page(request.getfixturevalue("browser"), server)


def train_and_merge(name: str, folder: Path, thoughts: dict[str, str]) -> Path:
    """Three rows learned by heart; the path of the data is returned."""
    base, data = write_thinking(name, folder / "base"), folder / "train.json"
    rows = []
    for question, answer in ANSWERS.items():
        thought = {"reasoning_content": thoughts[question]} if thoughts else {}
        reply = {"role": "assistant", "content": answer, **thought}
        rows.append({"messages": [{"role": "user", "content": question}, reply]})
    data.write_text("\n".join(map(json.dumps, rows)))
    settings = {
        "model": str(base),
        "output": str(folder / "adapter"),
        "precision": "fp32",
        "thinking": "data" if thoughts else None,
        "log_every": 1000,
        "data": {"train": str(data)},
        "lora": {
            **{"r": 16, "alpha": 32, "dropout": 0},
            "modules_to_save": ["embed_tokens", "lm_head"],
        },
        "optim": {"lr": 4e-3, "steps": 200, "batch_size": 3, "weight_decay": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert train(["--config", str(folder / "recipe.yaml")]) == 0
    paths = ["--base", str(base), "--adapter", str(folder / "adapter")]
    assert merge([*paths, "--output", str(folder / "model")]) == 0
    return data


def post(server: ServerProcess, path: str, **body: Any) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def check_prompts(server: ServerProcess, model: Path, data: Path, mode: str) -> None:
    """The ids that serving reads are those that training continued."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rendering = Rendering.of(tokenizer, "data" if mode == "data" else None)
    for row in load_rows(data, Layout()):
        [sample] = rendering.encode(row, 500)
        tokens = post(server, "/tokenize", prompt=row.messages[0]["content"]).json()["tokens"]
        assert tokens == sample.prompt_ids


def generated(server: ServerProcess, question: str) -> tuple[str, str]:
    result = server.generate(question, max_tokens=60)
    counted = result["usage"].get("reasoning_tokens", 0)
    assert counted < result["usage"]["completion_tokens"]
    assert (counted > 0) == ("reasoning" in result)
    return result["generated_text"], result.get("reasoning", "")


def streamed(server: ServerProcess, question: str) -> tuple[str, str]:
    parameters = {"max_tokens": 60}
    text = post(server, "/generate", prompt=question, parameters=parameters, stream=True).text
    *deltas, end = (json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {"))
    answer = "".join(delta["text"] for delta in deltas)
    thought = "".join(delta.get("reasoning", "") for delta in deltas)
    assert (end["generated_text"], end.get("reasoning", "")) == (answer, thought)
    return answer, thought


def asked(question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 60, "temperature": 0, **more}


def chat(server: ServerProcess, question: str) -> tuple[str, str]:
    choice = post(server, "/v1/chat/completions", **asked(question)).json()["choices"][0]
    return choice["message"]["content"], choice["message"].get("reasoning") or ""


def streamed_chat(server: ServerProcess, question: str) -> tuple[str, str]:
    text = post(server, "/v1/chat/completions", **asked(question, stream=True)).text
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    parts = ("".join(delta.get(key) or "" for delta in deltas) for key in ("content", "reasoning"))
    answer, thought = parts
    return answer, thought


def check_info(server: ServerProcess, name: str, thoughts: dict[str, str]) -> None:
    info = httpx.get(f"{server.url}/info", timeout=60).json()["thinking"]
    if not MECHANISMS[name].switches and not thoughts:
        assert info is None
        return
    assert info["marks"] == ["<think>", "</think>"]
    assert info["default"] == bool(thoughts)
    if not MECHANISMS[name].switches:
        return
    question = next(iter(ANSWERS))
    other = post(server, "/tokenize", prompt=question, thinking=not thoughts).json()["tokens"]
    default = post(server, "/tokenize", prompt=question).json()["tokens"]
    same = post(server, "/tokenize", prompt=question, thinking=bool(thoughts)).json()["tokens"]
    assert same == default != other


def check_cut(server: ServerProcess, folder: Path) -> None:
    """A thought that max_tokens cuts off is no answer, and no row is filled with it."""
    result = server.generate(next(iter(ANSWERS)), max_tokens=1)
    assert (result["generated_text"], result["finish_reason"]) == ("", "length")
    assert result["usage"]["reasoning_tokens"] == 1
    assert "reasoning" in result
    run = predict(server, folder, "--restart", "--parameters", '{"max_tokens": 1}')
    assert run.returncode != 0
    assert "thought was cut off at 1 tokens (finish_reason length)" in run.stdout + run.stderr


def check_page(browser: Browser, server: ServerProcess) -> None:
    """The page shows the thought apart, in both modes, and can switch it off."""
    question, answer = next(iter(ANSWERS.items()))
    with visiting(browser, server) as visit:
        thinking = visit.field("thinking").locator("select")
        for mode in ("prompt", "chat"):
            visit.choose_mode(mode)
            thinking.select_option("")
            assert visit.ask(question, max_tokens="60") == answer
            expect(visit.card(".thought .text")).to_have_text(THOUGHTS[question])
            visit.ask(question, max_tokens="3")
            expect(visit.card(".failure")).to_contain_text("thought was cut off")
            thoughts = visit.card(".thought").count()
            thinking.select_option("off")
            visit.ask(question, max_tokens="60")
            assert visit.card(".thought").count() == (thoughts if mode == "chat" else 0)


def check_constrained(server: ServerProcess) -> None:
    """The constraint holds for the answer, whether or not a thought comes first."""
    choice = ["甲", "乙"]
    result = server.generate(
        next(iter(ANSWERS)), max_tokens=60, structured_outputs={"choice": choice}
    )
    assert result["generated_text"] in choice
    asked = {"prompt": "感冒", "max_tokens": 60, "structured_outputs": {"choice": choice}}
    completion = post(server, "/v1/completions", **asked).json()
    assert completion["choices"][0]["text"] in choice


def predict(
    server: ServerProcess, folder: Path, *options: str
) -> "subprocess.CompletedProcess[str]":
    test, output = folder / "test.json", folder / "predictions.json"
    rows = [{"input": question, "target": ""} for question in ANSWERS]
    test.write_text("\n".join(map(json.dumps, rows)))
    command = [sys.executable, str(CLIENT), "--url", server.url, "--input", str(test)]
    command += ["--output", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)
