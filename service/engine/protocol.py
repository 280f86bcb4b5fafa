"""The interface of an engine: vllm_engine.py implements it with vLLM, tests with a fake."""

from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import ASGIApp

from service.adapter import Adapter
from service.engine.thinking.marks import Division, Phase
from service.errors import ServiceError

OPENAI_ROUTES = {
    "GET": {"/v1/models", "/v1/openapi.json"},
    "POST": {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
    },
}
"""Those of vLLM's own server that are served, by method."""


@dataclass
class Allowance:
    """How many log-probabilities the answer to one request may hold, and how many are left."""

    most: int
    prompts: int
    """Which share it."""
    in_streams: bool = False
    """Whether a stream is counted, too: its last event has the whole answer."""
    spent: int = 0


ALLOWANCE: ContextVar[Allowance | None] = ContextVar("ALLOWANCE", default=None)
"""That of the request at work, whose prompts reach the engine one by one."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log of one token's probability at one position."""

    token_id: int
    token: str
    logprob: float


@dataclass(frozen=True)
class Position:
    """The sampled token of one position, and the likeliest ones there."""

    sampled: TokenLogprob
    top: list[TokenLogprob]


@dataclass(frozen=True)
class Completion:
    """One of a request's outputs: whole, or (when streaming) what is new since the last step."""

    index: int
    text: str
    token_count: int
    finish_reason: str | None
    logprobs: list[Position] | None = None
    token_ids: list[int] = field(default_factory=list)
    thought: str | None = None
    """Set once it is told apart from the text; None where there is none."""
    thought_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds that a request spent in the engine; they come with its last step."""

    queued: float
    to_first_token: float


@dataclass(frozen=True)
class Step:
    """What one step of the engine adds to a request."""

    completions: list[Completion]
    timing: Timing | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """Token ids in, and SamplingParams fields under vLLM's own names."""

    request_id: str
    prompt_ids: list[int]
    sampling: dict[str, Any]
    stream: bool = False
    """True: steps carry deltas. False: one step carries the whole output."""
    adapter: Adapter | None = None
    """None for the model as it is."""
    priority: int = 0
    """Lower ones are scheduled first."""
    trace: dict[str, str] = field(default_factory=dict)
    """W3C trace context headers."""
    division: Division | None = None
    """Of its outputs; None: thoughts are not looked for."""
    owner: str = ""
    """Tells requests of one id, but of different API keys, apart."""

    @property
    def opens_thought(self) -> bool:
        """Whether the prompt ends inside a thought."""
        return self.division is not None and self.division.phase is Phase.OPENED


class Engine(Protocol):
    """A model that is loaded once and then generates for many requests at a time."""

    version: str

    @property
    def tokenizer(self) -> Any:
        """The model's Hugging Face tokenizer; usable after `start`."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids the model can produce."""

    @property
    def dtype(self) -> str:
        """Number format of the weights in use, for example bfloat16."""

    async def start(self) -> None:
        """Load the model; raises whatever hindered it."""

    @property
    def dtype_reason(self) -> str:
        """Why it is that one."""

    @property
    def max_num_seqs(self) -> int:
        """Most sequences that it computes at a time; the rest wait."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Step]:
        """Steps of `request`; closing the iterator aborts it in the engine.

        Raises InvalidRequestError for what the engine refuses, UnavailableError when it is dead,
        EngineDiedError when it dies meanwhile.
        """

    async def abort(self, request_ids: list[str]) -> None:
        """End these requests: their steps end with finish_reason abort."""

    async def add_adapter(self, adapter: Adapter) -> None:
        """Load an adapter. Raises InvalidRequestError when the engine cannot take it."""

    async def remove_adapter(self, adapter: Adapter) -> None:
        """Free its memory, once its requests have ended, whether their answers are read or not."""

    async def openai_routes(self) -> ASGIApp:
        """The engine's own OpenAI routes under /v1, over this engine."""

    def is_alive(self) -> bool:
        """False once the engine cannot generate any more."""

    def seconds_without_progress(self) -> float:
        """How long requests have been waiting since the last token; 0 when there are none."""

    def failure(self) -> ServiceError | None:
        """What requests fail of that run now; None while the engine works."""

    def fail(self, error: ServiceError) -> None:
        """Answer every running request with that error; `shutdown` will be rough then."""

    def shutdown(self) -> None:
        """Free the model; a running request fails."""
