"""params.json of a LLaMA release: the model's sizes, some written there, some implied."""

from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.files import JsonObject, read_json

REQUIRED = {"dim", "n_layers", "n_heads", "multiple_of", "norm_eps"}
OPTIONAL = {"n_kv_heads", "vocab_size", "ffn_dim_multiplier", "rope_theta"}
RUNTIME = {"max_batch_size", "max_seq_len"}  # of the release's own server, not of the model


@dataclass(frozen=True)
class Params:
    """Sizes of a LLaMA. `vocab` is None where params.json leaves it to the tokenizer (-1)."""

    dim: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    norm_eps: float
    rope_theta: float
    vocab: int | None

    @property
    def head_dim(self) -> int:
        """Rows of q_proj for each head."""
        return self.dim // self.heads

    @property
    def context(self) -> int:
        """Tokens the release was trained on, as far as params.json implies it.

        LLaMA 1 (2048) and 2 (4096) differ in norm_eps alone, but for two: LLaMA 1 65B already
        has the new one, and of that width LLaMA 2 has only a 70B, with fewer key-value heads.
        """
        first = self.norm_eps < 1e-5 or (self.dim == 8192 and self.kv_heads == self.heads)
        return 2048 if first else 4096


def read_params(path: Path) -> Params:
    """Return the sizes that `path` (params.json) gives.

    Raises TrainingError when the file is missing, incomplete, contradicts itself, or has settings
    that LLaMA 1 and 2 do not know.
    """
    settings = read_json(path)
    missing, unknown = REQUIRED - settings.keys(), settings.keys() - REQUIRED - OPTIONAL - RUNTIME
    if missing or unknown:
        fault = f"lacks {sorted(missing)}" if missing else f"has unknown settings {sorted(unknown)}"
        raise TrainingError(f"{path} {fault}: is this the params.json of a LLaMA 1 or 2?")
    heads = _positive(settings, "n_heads", path)
    params = Params(
        dim=_positive(settings, "dim", path),
        inner=_inner(settings, path),
        layers=_positive(settings, "n_layers", path),
        heads=heads,
        kv_heads=_positive({"n_kv_heads": heads} | settings, "n_kv_heads", path),
        norm_eps=float(settings["norm_eps"]),
        rope_theta=float(settings.get("rope_theta", 10000.0)),
        vocab=settings["vocab_size"] if settings.get("vocab_size", -1) > 0 else None,
    )
    if params.dim % (2 * heads) or heads % params.kv_heads:
        raise TrainingError(
            f"{path}: dim {params.dim}, n_heads {heads} and n_kv_heads {params.kv_heads} do not"
            " divide: the file is damaged, get it again"
        )
    return params


def _positive(settings: JsonObject, key: str, path: Path) -> int:
    value = settings[key]
    if type(value) is not int or value < 1:
        raise TrainingError(f"{path}: {key} is {value!r}, expected a whole number of 1 or more")
    return value


def _inner(settings: JsonObject, path: Path) -> int:
    """Width of the feed-forward layers: 8/3 dim, scaled, rounded up (the release's rule)."""
    width = int(8 * _positive(settings, "dim", path) / 3)
    if settings.get("ffn_dim_multiplier") is not None:
        width = int(settings["ffn_dim_multiplier"] * width)
    multiple = _positive(settings, "multiple_of", path)
    return multiple * ((width + multiple - 1) // multiple)
