"""Peak memory and time of merging a 1.26B fp16 LLaMA, against copying it.

Run: python -m tests.bench.merge_memory   (needs 7 GB in build/bench, removed at the end)
Exits 1 when the peak reaches 500 MiB.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

LIMIT_MIB = 500
HIDDEN, INTER, LAYERS, VOCABULARY, RANK = 2048, 5632, 22, 32000, 8
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTER, HIDDEN),
    "mlp.up_proj": (INTER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTER),
}


def main() -> int:
    root = Path("build/bench/merge_memory")
    shutil.rmtree(root, ignore_errors=True)
    try:
        # a process of its own: a child's peak counts what its parent held when it was started
        _run("-m", "tests.bench.merge_memory", "--write", str(root))
        copy = min(_copy_seconds(root / "base", root / "copy") for _ in range(2))
        seconds, busy, peak = _run(
            *("-m", "training.merge", "--base", str(root / "base")),
            *("--adapter", str(root / "adapter"), "--output", str(root / "merged")),
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"merge {seconds:.1f} s ({busy:.1f} s of CPU), peak {peak:.0f} MiB (limit {LIMIT_MIB})")
    print(f"cp -r {copy:.1f} s, merge takes {seconds / copy:.1f} times that")
    return int(peak >= LIMIT_MIB)


def _run(*arguments: str) -> tuple[float, float, float]:
    """Run python with `arguments`; return seconds, CPU seconds, peak resident MiB."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    busy = usage.ru_utime + usage.ru_stime
    return time.monotonic() - started, busy, usage.ru_maxrss / 1024


def _copy_seconds(source: Path, target: Path) -> float:
    started = time.monotonic()
    subprocess.run(["cp", "-r", source, target], check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(target)
    return seconds


def write(root: Path) -> None:
    """Write base/ (3 layers a shard, the same values in every layer) and adapter/."""
    import torch
    from safetensors.torch import save_file

    (root / "base").mkdir(parents=True)
    (root / "adapter").mkdir()
    torch.manual_seed(0)
    layer = {f"{name}.weight": 0.02 * torch.randn(shape) for name, shape in PROJECTIONS.items()}
    norms = dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"))
    layer |= {name: torch.ones(HIDDEN) for name in norms}
    layer = {name: values.half() for name, values in layer.items()}
    embedding = (0.02 * torch.randn(VOCABULARY, HIDDEN)).half()
    ends = {"model.embed_tokens": embedding, "lm_head": embedding.clone()}
    shards = [{f"{name}.weight": values for name, values in ends.items()}]
    shards[0]["model.norm.weight"] = torch.ones(HIDDEN).half()
    for first in range(0, LAYERS, 3):
        shards.append({})
        for number in range(first, min(first + 3, LAYERS)):
            shards[-1] |= {f"model.layers.{number}.{n}": v.clone() for n, v in layer.items()}
        save_file(shards[-1], root / "base" / _shard(len(shards)))
        shards[-1] = dict.fromkeys(shards[-1], embedding[:0])  # names only from here on
    save_file(shards[0], root / "base" / _shard(1))
    weight_map = {name: _shard(n) for n, shard in enumerate(shards, 1) for name in shard}
    index = {"metadata": {}, "weight_map": weight_map}
    (root / "base" / "model.safetensors.index.json").write_text(json.dumps(index))
    (root / "base" / "config.json").write_text('{"model_type": "llama"}')
    pairs = {}
    for number in range(LAYERS):
        for name, (rows, columns) in PROJECTIONS.items():
            key = f"base_model.model.model.layers.{number}.{name}.lora_"
            pairs[f"{key}A.weight"] = torch.randn(RANK, columns) / columns**0.5
            pairs[f"{key}B.weight"] = torch.randn(rows, RANK) * 1e-3
    save_file(pairs, root / "adapter" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "target_modules": [*PROJECTIONS]}
    (root / "adapter" / "adapter_config.json").write_text(json.dumps(config))


def _shard(number: int) -> str:
    return f"model-{number:05d}.safetensors"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]))
    else:
        sys.exit(main())
