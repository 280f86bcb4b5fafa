"""What a model needs in a prompt's token ids beyond its chat template."""

import json
from dataclasses import dataclass
from pathlib import Path

from service.errors import InvalidRequestError


@dataclass(frozen=True)
class Placement:
    """Placeholders for a trained prefix, and where ChatGLM-6B's [gMASK] and <sop> must stand."""

    placeholders: tuple[int, ...] = ()
    marks: tuple[int, int] | None = None

    @classmethod
    def read(cls, model: Path) -> "Placement":
        """What config.json of the directory `model` says."""
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        filler = config.get("pad_token_id") or 0
        marks = None
        if config.get("model_type") == "chatglm_6b":
            marks = (config["gmask_token_id"], config["bos_token_id"])
        return cls((filler,) * config.get("prefix_tokens", 0), marks)

    def apply(self, ids: list[int]) -> list[int]:
        """The ids that the engine computes with.

        Raises InvalidRequestError for a raw ChatGLM-6B prompt whose answer has no one beginning:
        the model could not tell the question, which it reads in both directions, from the answer.
        """
        if self.marks is not None:
            gmask, sop = self.marks
            begin = ids.index(sop) if sop in ids else 0
            if begin == 0 or gmask not in ids or ids.index(gmask) != begin - 1:
                raise InvalidRequestError(
                    "a raw prompt for ChatGLM-6B needs [gMASK]<sop> after the question, and no "
                    "[gMASK] or <sop> before it",
                    "prompt",
                )
        return [*self.placeholders, *ids]
