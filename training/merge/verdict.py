"""The prompts that a merge is verified on, and the result; without torch."""

from dataclasses import asdict, dataclass

from training.errors import TrainingError

PROMPTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "患者三天前开始发热、咳嗽，现到医院就诊。医生首先应当",
    "def fibonacci(n):\n    return n if n < 2 else",
)


class UnfaithfulMergeError(TrainingError):
    """The merged model answers otherwise than base and adapters."""


@dataclass(frozen=True)
class Verdict:
    """Over all positions of all prompts: logits' largest difference and what was allowed.

    `same_token` is the share of positions whose likeliest next token is the same.
    """

    positions: int
    max_difference: float
    allowed: float
    same_token: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, for provenance.json."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"verified at {self.positions} positions: largest difference of a logit"
            f" {self.max_difference:.3g} (rounding explains {self.allowed:.3g}),"
            f" same next token at {self.same_token:.1%}"
        )
