"""Evaluation losses of an adapter on the base it was trained on, and of the merged model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from training.data.collate import IGNORED, Features, features
from training.data.rows import load_rows
from training.data.settings import DataConfig, Source
from training.files import read_json
from training.merge.dequantised import load_dequantised
from training.merge.learnt_on.layers import linear_layers
from training.merge.learnt_on.record import BaseQuantisation
from training.progress import hide_transformers_bars
from training.rendering.conversation import Rendering
from training.rendering.tokenizer import load_tokenizer
from training.weights.blockwise import dequantised

ROWS = 64
"""Evaluation rows that are read at most: a model runs whole, row after row."""


class Losses(NamedTuple):
    """Mean cross-entropy a token, in nats, over `rows` of what `of` names."""

    learnt: float
    merged: float
    rows: int
    of: str

    def __str__(self) -> str:
        return (
            f"loss on {self.rows} {self.of}: {self.learnt:.4f} on the quantised base that the"
            f" adapter was learnt on, {self.merged:.4f} merged"
        )


def compare_losses(
    base: Path, adapter: Path, record: BaseQuantisation, merged: Path, prompts: Sequence[str]
) -> Losses:
    """Run both in fp32 on the run's own evaluation rows, or on `prompts` where it has none."""
    rows, of = _evaluation_rows(adapter), "evaluation rows of its run"
    if not rows:
        rows, of = _texts(merged, prompts), "texts"
    hide_transformers_bars()
    after = _mean_loss(_load_merged(merged), rows)
    return Losses(_mean_loss(_load_learnt(base, adapter, record), rows), after, len(rows), of)


def _evaluation_rows(adapter: Path) -> list[Features]:
    """Those that training.yaml names, if they are still there."""
    settings = _settings(adapter)
    path = settings.get("data", {}).get("eval")
    if path is None or not Path(path).is_file():
        return []
    data = DataConfig.model_validate(settings["data"])
    rendering = Rendering.of(
        load_tokenizer(adapter, None),
        settings.get("thinking"),
        train_thoughts=settings.get("train_thoughts", True),
    )
    rows = load_rows(Path(path), data.layout(Source(path=path)))[: data.limit][:ROWS]
    return [features(each) for row in rows for each in rendering.encode(row, data.max_length)]


def _settings(adapter: Path) -> dict[str, Any]:
    """Those of its run: beside it, or, of a checkpoint, beside that."""
    for record in (adapter / "training.yaml", adapter.parent / "training.yaml"):
        if record.is_file():
            settings: dict[str, Any] = yaml.safe_load(record.read_text("utf-8"))
            return settings
    return {}


def _texts(model: Path, prompts: Sequence[str]) -> list[Features]:
    tokenizer = load_tokenizer(model, None)
    encoded = [tokenizer(text).input_ids for text in prompts]
    return [{"input_ids": ids, "labels": ids} for ids in encoded]


def _load_merged(directory: Path) -> Any:
    if "quantization_config" in read_json(directory / "config.json"):
        return load_dequantised(directory).model
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def _load_learnt(base: Path, adapter: Path, record: BaseQuantisation) -> Any:
    """The base with dequantised layers and the adapter active."""
    dtype = getattr(torch, record.dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for layer in linear_layers(model).values():
        (layer.weight.data,) = dequantised(record.scheme, [layer.get_parameter("weight").data])
    return PeftModel.from_pretrained(model.float(), adapter).eval()


def _mean_loss(model: Any, rows: Sequence[Features]) -> float:
    """Over all labelled tokens."""
    losses, tokens = zip(*(_loss(model, row) for row in rows), strict=True)
    return float(sum(losses) / sum(tokens))


def _loss(model: Any, row: Features) -> tuple[float, int]:
    ids = torch.tensor([row["input_ids"]])
    targets = torch.tensor(row["labels"][1:])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    loss = cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return float(loss), int((targets != IGNORED).sum())
