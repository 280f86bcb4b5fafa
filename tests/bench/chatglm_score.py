"""A tiny ChatGLM-6B learns the demo's label tasks, by LoRA and by P-tuning v2.

    make demo && python -m tests.bench.chatglm_score      (10 minutes on two cores)

A random model of the real architecture first reads the demo's corpus, as the demo's LLaMA did, and
the answers of twelve tasks: it knows words and that questions have answers. training.train then
fine-tunes it on the four classification tasks, training.merge makes the model directories, the
service answers the dev rows. Prints the shares of exact matches.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.paths import DEMO
from tests.server import serving

SEED, CONTEXT, VOCABULARY = 13, 512, 3000
HIDDEN, HEADS, LAYERS, INNER = 192, 6, 4, 512
PASSAGES, STEPS, BATCH, LONGEST = 8000, 1000, 16, 96
# a large rank and a long prefix, because the base knows so little
WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"lora": {"r": 64, "alpha": 64, "dropout": 0.0}, "lr": 2e-3},
    "P-tuning v2": {
        "prefix": {"tokens": 32, "projection": True, "projection_size": HIDDEN},
        "lr": 3e-3,
    },
}


def main() -> None:
    """Build the base, tune it in both ways, serve and score all three models."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = {split: _rows(split, known=False) for split in ("train", "dev")}
        data = folder / "train.json"
        data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows["train"]))
        base = _base(folder / "base")
        scores = {"base": _score(base, rows["dev"], folder)}
        for name, settings in WAYS.items():
            model = _tuned(base, data, folder / name.replace(" ", "-"), settings)
            scores[name] = _score(model, rows["dev"], folder)
    print(f"{len(rows['dev'])} dev rows of four classification tasks, exact match")
    for name, score in scores.items():
        print(f"{name:12} {score:6.1%}")


def _rows(split: str, *, known: bool) -> list[dict[str, Any]]:
    """The demo's rows: those whose tasks the base knows, or those that it is to learn."""
    rows = map(json.loads, (DEMO / "data" / f"{split}.json").read_text("utf-8").splitlines())
    return [row for row in rows if (row["task_type"] != "cls") == known]


def _tuned(base: Path, data: Path, folder: Path, settings: dict[str, Any]) -> Path:
    from training.merge.job import merge
    from training.train.config import load_config
    from training.train.job import train

    folder.mkdir()
    optim = {"lr": settings["lr"], "epochs": 10, "batch_size": 8, "weight_decay": 0.0}
    recipe = {
        **{"model": str(base), "output": str(folder / "adapter"), "precision": "fp32"},
        **{"log_every": 100, "save_every": 1000, "optim": optim},
        **{"data": {"train": str(data), "max_length": 256}},
        **{key: value for key, value in settings.items() if key != "lr"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    merge(base, [train(load_config(folder / "recipe.yaml", []))], folder / "model")
    return folder / "model"


def _score(model: Path, rows: list[dict[str, Any]], folder: Path) -> float:
    with serving(model, folder / "server.log") as server:
        results = server.generate([row["input"] for row in rows], max_tokens=32)["results"]
    pairs = zip(results, rows, strict=True)
    right: int = sum(one["generated_text"].strip() == row["target"] for one, row in pairs)
    return right / len(rows)


def _base(folder: Path) -> Path:
    """A directory such as training.convert chatglm writes."""
    from training.convert.chatglm.tokenizer import read_pieces, tokenizer_from_pieces
    from training.demo.corpus import corpus
    from training.demo.tasks import read_split
    from training.model_directory.templates import read_template

    questions = [row["input"] for row in read_split(DEMO / "data" / "train.json")]
    documents = corpus(questions, PASSAGES, SEED)
    folder.mkdir()
    pieces = _pieces(documents, folder.parent / "ice_text.model")
    tokenizer = tokenizer_from_pieces(read_pieces(pieces), CONTEXT)
    tokenizer.chat_template = read_template("chatglm")
    _pretrained(documents, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _pieces(documents: list[str], path: Path) -> Path:
    """A sentencepiece model with the pieces that ChatGLM-6B's has."""
    import sentencepiece

    from training.demo.base import frequent_characters

    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    marks = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
    lines = [line for text in documents for line in text.split("\n") if line]
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            model_type="unigram",
            vocab_size=VOCABULARY,
            character_coverage=1.0,
            required_chars=frequent_characters()[:94],
            byte_fallback=True,
            user_defined_symbols=["<n>", "<|tab|>", *blanks, *marks],
            pad_id=3,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=2,
        )
    return path


def _pretrained(documents: list[str], tokenizer: Any) -> Any:
    """Read documents cut at random into a context and what follows, and answers of known tasks."""
    import torch

    from training.chatglm import ChatGLM6BConfig, ChatGLM6BForConditionalGeneration
    from training.demo.base import optimise

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("[gMASK]", "[MASK]", "<pad>")}
    config = ChatGLM6BConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": HIDDEN, "inner_hidden_size": INNER},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"max_position_embeddings": CONTEXT, "initializer_range": HIDDEN**-0.5},
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id},
        **{"gmask_token_id": ids["[gMASK]"], "mask_token_id": ids["[MASK]"]},
        pad_token_id=ids["<pad>"],
    )
    torch.manual_seed(SEED)
    model = ChatGLM6BForConditionalGeneration(config).float()
    _start_copying(model)
    batches = _batches(documents, tokenizer, ids)
    losses = (model(**batch).loss for batch in batches)
    return optimise(model, losses, STEPS, 3e-3, "pre-training a tiny ChatGLM")


def _start_copying(model: Any) -> None:
    """As in training/demo/base.py: attention begins by looking for like tokens."""
    import torch

    with torch.no_grad():
        for layer in model.transformer.layers:
            mixed = layer.attention.query_key_value.weight.view(HEADS, 3, -1, HIDDEN)
            mixed[:, 1] = mixed[:, 0]
            layer.attention.dense.weight.copy_(mixed[:, 2].reshape(HIDDEN, HIDDEN).T)


def _batches(documents: list[str], tokenizer: Any, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    from training.data.collate import IGNORED, pad

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)  # type: ignore[no-any-return]

    begin, end = [ids["[gMASK]"], tokenizer.bos_token_id], tokenizer.eos_token_id
    read = [encode(text)[:LONGEST] for text in documents]
    known = [(encode(row["input"]), encode(row["target"])) for row in _rows("train", known=True)]
    rng = Random(SEED)
    while True:
        pairs = rng.sample(known, BATCH // 2)
        for document in rng.sample(read, BATCH // 2):
            cut = rng.randrange(len(document))
            pairs.append((document[:cut], document[cut:]))
        rows = [
            {
                "input_ids": [*context, *begin, *rest, end],
                "labels": [IGNORED] * (len(context) + 2) + [*rest, end],
            }
            for context, rest in pairs
        ]
        yield pad(rows, ids["<pad>"])


if __name__ == "__main__":
    main()
