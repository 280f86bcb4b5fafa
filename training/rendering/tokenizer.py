"""The tokenizer of a model directory, as serving reads it."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.tokenization_auto import MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS

from training.errors import TrainingError
from training.files import read_optional_json
from training.model_directory.templates import known_templates, read_template
from training.model_directory.token_ids import read_tokens, roles_by_id

# Where tokenizers differ: case, digits, blanks, line ends, accents, scripts.
PROBE = "I'm 12345  kg!\n\n\tÉtude e\u0301 咽炎，38.5℃。 don'T\r\n  x=y_2 ﬁ Ⅳ 🙂"


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
    if isinstance(tokenizer.chat_template, dict):  # several, each with a name
        tokenizer.chat_template = tokenizer.chat_template.get("default")
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
    if encode(loaded, PROBE) != encode(tokenizer, PROBE):
        raise TrainingError(
            f"{model}/tokenizer.json splits texts otherwise than {type(loaded).__name__}, which"
            f" loaders, vLLM too, take for every model of type {kind}: what is served would not be"
            " what is trained here"
        )


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a rendered text: the template writes BOS itself, a second one would be wrong."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
