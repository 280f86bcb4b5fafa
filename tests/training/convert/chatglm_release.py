"""ChatGLM-6B's directory as the hub has it, small: made of tests/golden/chatglm-6b/base."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.models import edit_json, weights
from tests.paths import ROOT

if TYPE_CHECKING:
    import torch

GOLDEN = ROOT / "tests" / "golden" / "chatglm-6b"
BASE = GOLDEN / "base"
TABLES = ("transformer.word_embeddings.weight", "lm_head.weight")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "gmask_token_id", "mask_token_id", "pad_token_id")
CODE = """\
from pathlib import Path
Path(__file__).with_name("TRACE").touch()
raise SystemExit("code of the checkpoint was run")
"""


def write_release(folder: Path, files: int = 3, images: int = 0) -> Path:
    """Write the golden checkpoint as .bin files, an index and remote code that leaves a trace.

    `images` rows of image tokens stand before the text's, as in the first release.
    """
    tensors = weights(BASE)
    if images:
        tensors |= {name: _with_images(tensors[name], images) for name in TABLES}
    copy_base(folder)
    (folder / "model.safetensors").unlink()
    write_bins(folder, tensors, files)
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_chatglm.py").write_text(CODE)
    if images:
        config = json.loads((folder / "config.json").read_text())
        ids = {key: config[key] + images for key in TOKEN_IDS}
        edit_json(folder / "config.json", vocab_size=config["vocab_size"] + images, **ids)
        edit_json(folder / "tokenizer_config.json", num_image_tokens=images)
    return folder


def copy_base(folder: Path) -> Path:
    """Copy the golden checkpoint, safetensors and all, to where a test may change it."""
    shutil.copytree(BASE, folder)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def write_bins(folder: Path, tensors: "dict[str, torch.Tensor]", files: int) -> None:
    """Write pytorch_model-0000k-of-0000n.bin, `files` of them, and their index."""
    import torch

    names = [f"pytorch_model-{n + 1:05d}-of-{files:05d}.bin" for n in range(files)]
    places = {name: names[n * files // len(tensors)] for n, name in enumerate(tensors)}
    for file in names:
        part = {name: tensors[name] for name, place in places.items() if place == file}
        torch.save(part, folder / file)
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _with_images(table: "torch.Tensor", rows: int) -> "torch.Tensor":
    import torch

    return torch.cat([torch.full((rows, table.shape[1]), 7.0, dtype=table.dtype), table])
