"""Text to token ids, through the chat template that serving will render with too."""

from collections.abc import Callable, Sequence
from itertools import chain, cycle
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS

from training.data.collate import EncodedSample
from training.data.rows import Row
from training.errors import TrainingError
from training.files import read_optional_json
from training.model_directory.templates import known_templates, read_template
from training.model_directory.token_ids import read_tokens, roles_by_id

# Where tokenizers differ: case, digits, blanks, line ends, accents, scripts.
PROBE = "I'm 12345  kg!\n\n\tÉtude e\u0301 咽炎，38.5℃。 don'T\r\n  x=y_2 ﬁ Ⅳ 🙂"
History = Sequence[tuple[str, str]]


def load_tokenizer(model: Path, template: str | None) -> Tokenizer:
    """The tokenizer of the directory `model`, with `template` in place of its own when named.

    It is the one in tokenizer.json, whatever class tokenizer_config.json names: those of
    transformers would build another one of the same vocabulary (LlamaTokenizerFast, which
    DeepSeek's models name, splits words otherwise than their byte-level tokenizer.json).
    Raises TrainingError when there is no tokenizer, no such template, or none at all.
    """
    if not (model / "tokenizer.json").is_file():
        raise TrainingError(
            f"{model}: no tokenizer.json in it; is it a model directory? (one with tokenizer.model"
            " only goes through python -m training.convert hf)"
        )
    tokenizer = _load(model)
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"{model}: the tokenizer has no eos_token, so that no answer would have an end: name"
            f" one of its tokens in {model}/tokenizer_config.json"
        )
    if template is not None:
        tokenizer.chat_template = read_template(template)
    if tokenizer.chat_template is None:
        raise TrainingError(
            f"{model}: no chat template; name one with template=… ({known_templates()})"
        )
    return tokenizer


def _load(model: Path) -> Tokenizer:
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(model))
        config = read_optional_json(model / "config.json")
        for role, token in roles_by_id(config, read_tokens(model)).items():
            setattr(tokenizer, role, token)
        _refuse_odd_settings(model, tokenizer)
        _refuse_other_ids(model, tokenizer)
        return tokenizer
    except TrainingError:
        raise
    except Exception as error:  # the Rust library has no type of its own
        raise TrainingError(
            f"{model}: tokenizer.json or tokenizer_config.json is damaged:"
            f" {type(error).__name__}: {error}"
        ) from error


def _refuse_odd_settings(model: Path, tokenizer: Tokenizer) -> None:
    numbers = isinstance(tokenizer.model_max_length, int | float)
    if not numbers or not all(tokenizer.all_special_tokens):
        raise TrainingError(
            f"{model}/tokenizer_config.json: model_max_length must be a number, and no special"
            " token may be empty"
        )


def _refuse_other_ids(model: Path, tokenizer: Tokenizer) -> None:
    """Of some model types loaders take the tokenizer's class by the type, whatever is in the files.

    Where that splits texts otherwise than tokenizer.json, serving would not see what was trained.
    """
    kind = read_optional_json(model / "config.json").get("model_type")
    if kind not in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        return
    loaded = AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    if _encode(loaded, PROBE) != _encode(tokenizer, PROBE):
        raise TrainingError(
            f"{model}/tokenizer.json splits texts otherwise than {type(loaded).__name__}, which"
            f" loaders, vLLM too, take for every model of type {kind}: what is served would not be"
            " what is trained here"
        )


def encode_prompt(tokenizer: Tokenizer, prompt: str, history: History = ()) -> list[int]:
    """Token ids of a conversation up to one more user turn, ready for the answer to follow."""
    return _encode(tokenizer, _render(tokenizer, prompt, history))


def encode_sample(tokenizer: Tokenizer, row: Row, max_length: int) -> EncodedSample:
    """Token ids of `row`, at most `max_length` of them.

    What is too long loses its oldest rounds first, then the middle of its prompt: questions stand
    at either end.
    Raises TrainingError for control tokens in the text, and for an answer too long to fit.
    """
    _refuse_control_tokens(tokenizer, row)
    answer = _encode_answer(tokenizer, row)
    limit = max_length - len(answer)
    full = ids = encode_prompt(tokenizer, row.prompt, row.history)
    history = row.history
    while len(ids) > limit and history:
        history = history[1:]
        ids = encode_prompt(tokenizer, row.prompt, history)
    if len(ids) > limit:
        ids = _cut_middle(row.prompt, limit, lambda text: encode_prompt(tokenizer, text))
    if not ids:
        raise TrainingError(
            f"{row.where}: the answer's {len(answer)} tokens leave no room for a prompt in "
            f"data.max_length={max_length}"
        )
    return EncodedSample(ids, answer, len(full) - len(ids))


def _encode_answer(tokenizer: Tokenizer, row: Row) -> list[int]:
    """The answer as the template writes it, tokenised where it follows the prompt."""
    prompt = _render(tokenizer, row.prompt, row.history)
    whole = _render(tokenizer, row.prompt, row.history, row.response)
    if not whole.startswith(prompt) or whole == prompt:
        raise TrainingError(
            f"{row.where}: the chat template does not continue its own prompt with the answer; "
            "use a template whose conversation starts with its generation prompt"
        )
    prompt_ids, answer = _encode(tokenizer, prompt), _encode(tokenizer, whole)
    if answer[: len(prompt_ids)] == prompt_ids:
        answer = answer[len(prompt_ids) :]
    else:  # A token would span the border. Serving knows the prompt alone, so it must hold.
        answer = _encode(tokenizer, whole[len(prompt) :])
    # Some templates (GLM-4's) let the next question end an answer: training needs an end to learn.
    ends = tokenizer.eos_token_id is None or tokenizer.eos_token_id in answer[-2:]
    return answer if ends else [*answer, tokenizer.eos_token_id]


def _render(
    tokenizer: Tokenizer, prompt: str, history: History, response: str | None = None
) -> str:
    """The conversation as text; without a response, up to where the answer begins."""
    texts = [*chain(*history), prompt, *([] if response is None else [response])]
    roles = cycle(("user", "assistant"))
    turns = [{"role": next(roles), "content": text} for text in texts]
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=response is None
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise TrainingError(
            f"the chat template does not take this conversation: {error}"
        ) from error
    return text


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    # The template writes BOS itself: special tokens added here would double it.
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _cut_middle(text: str, limit: int, encode: Callable[[str], list[int]]) -> list[int]:
    """Ids of the longest head + tail of `text` that fit `limit`."""
    fits: list[int] = []
    low, high = 0, len(text)
    while low < high:
        keep = (low + high) // 2
        head = (keep + 1) // 2
        ids = encode(text[:head] + text[len(text) - (keep - head) :])
        if len(ids) <= limit:
            fits, low = ids, keep + 1
        else:
            high = keep
    return fits


def _refuse_control_tokens(tokenizer: Tokenizer, row: Row) -> None:
    texts = [row.prompt, row.response, *chain(*row.history)]
    for token in tokenizer.all_special_tokens:
        if any(token in text for text in texts):
            raise TrainingError(
                f"{row.where}: the text holds the control token {token!r} of "
                f"{tokenizer.name_or_path}, which would be read as a command to the model: remove "
                "it from the data"
            )
