"""LLaMA's original release, independent of the converter: a writer, and Meta's forward pass.

`logits` computes on the written files as the release's processes did (fairscale's parallel layers,
complex rotary positions), so it proves the writer right where it equals Hugging Face's model.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import silu

Weights = dict[str, torch.Tensor]
NAMES = {
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "feed_forward.w3": ("mlp.up_proj", 0),
}


def write_release(model: Any, folder: Path, count: int, **params: Any) -> Path:
    """Write the LlamaForCausalLM `model` as `count` files; `params` go into params.json."""
    config, state = model.config, model.state_dict()
    whole: dict[str, tuple[torch.Tensor, int | None]] = {
        "tok_embeddings.weight": (state["model.embed_tokens.weight"], 1),
        "norm.weight": (state["model.norm.weight"], None),
        "output.weight": (state["lm_head.weight"], 0),
    }
    for number in range(config.num_hidden_layers):
        old, new = f"layers.{number}", f"model.layers.{number}"
        for norm, name in (("attention", "input"), ("ffn", "post_attention")):
            whole[f"{old}.{norm}_norm.weight"] = state[f"{new}.{name}_layernorm.weight"], None
        for mine, (theirs, axis) in NAMES.items():
            whole[f"{old}.{mine}.weight"] = state[f"{new}.{theirs}.weight"], axis
        for letter in "qk":
            rows = state[f"{new}.self_attn.{letter}_proj.weight"]
            whole[f"{old}.attention.w{letter}.weight"] = _neighbours(rows, config.head_dim), 0
    folder.mkdir(parents=True)
    for part in range(count):
        weights = {name: _part(*cut, part, count) for name, cut in whole.items()}
        weights["rope.freqs"] = torch.ones(config.head_dim // 2)
        torch.save(weights, folder / f"consolidated.{part:02d}.pth")
    sizes = {"dim": config.hidden_size, "n_layers": config.num_hidden_layers, "vocab_size": -1}
    sizes |= {"n_heads": config.num_attention_heads, "norm_eps": config.rms_norm_eps}
    (folder / "params.json").write_text(json.dumps(sizes | {"multiple_of": 16} | params))
    return folder


def _neighbours(rows: torch.Tensor, head: int) -> torch.Tensor:
    """Hugging Face turns row i of a head with row i + head/2, the release 2i with 2i + 1."""
    order = []
    for start in range(0, len(rows), head):
        for i in range(head // 2):
            order += [start + i, start + i + head // 2]
    return rows[order]


def _part(tensor: torch.Tensor, axis: int | None, part: int, count: int) -> torch.Tensor:
    return (tensor if axis is None else tensor.chunk(count, axis)[part]).clone()


def logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What the release computes for one sequence: tokens[T] to logits[T, vocab]."""
    params = json.loads((folder / "params.json").read_text())
    ranks = [torch.load(path) for path in sorted(folder.glob("consolidated.*.pth"))]
    head = params["dim"] // params["n_heads"]
    steps = 1.0 / params.get("rope_theta", 10000.0) ** (torch.arange(0, head, 2) / head)
    angles = torch.outer(torch.arange(len(tokens)).float(), steps)
    turns = torch.polar(torch.ones_like(angles), angles)
    x = torch.cat([rank["tok_embeddings.weight"][tokens] for rank in ranks], dim=-1)
    for number in range(params["n_layers"]):
        layers = [_layer(rank, number) for rank in ranks]
        normed = _norm(x, layers[0]["attention_norm"], params["norm_eps"])
        x = x + sum(_attention(normed, layer, turns) for layer in layers)
        normed = _norm(x, layers[0]["ffn_norm"], params["norm_eps"])
        x = x + sum(_feed_forward(normed, layer) for layer in layers)
    x = _norm(x, ranks[0]["norm.weight"], params["norm_eps"])
    return torch.cat([x @ rank["output.weight"].T for rank in ranks], dim=-1)


def _layer(rank: Weights, number: int) -> Weights:
    prefix = f"layers.{number}."
    names = [name for name in rank if name.startswith(prefix)]
    return {name.removeprefix(prefix).removesuffix(".weight"): rank[name] for name in names}


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _attention(x: torch.Tensor, layer: Weights, turns: torch.Tensor) -> torch.Tensor:
    """One process's heads, and its share of the sum that wo makes."""
    head, length = 2 * turns.shape[-1], len(x)
    q, k, v = (
        (x @ layer[f"attention.w{name}"].T).view(length, -1, head).transpose(0, 1) for name in "qkv"
    )
    q, k = (_turned(each, turns) for each in (q, k))
    k, v = (each.repeat_interleave(len(q) // len(each), dim=0) for each in (k, v))
    future = torch.full((length, length), float("-inf")).triu(1)
    scores = (q @ k.transpose(1, 2) / head**0.5 + future).softmax(-1)
    mixed: torch.Tensor = (scores @ v).transpose(0, 1).reshape(length, -1)
    return mixed @ layer["attention.wo"].T


def _turned(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2)


def _feed_forward(x: torch.Tensor, layer: Weights) -> torch.Tensor:
    gate, up, down = (layer[f"feed_forward.w{number}"] for number in (1, 3, 2))
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T
