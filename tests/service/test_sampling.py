"""From a request's parameters to SamplingParams fields."""

from typing import Any

import pytest

from service.errors import InvalidRequestError
from service.sampling import to_sampling, with_max_tokens
from service.schemas import Parameters
from service.settings import Settings


def sampling(settings: Settings, **parameters: Any) -> dict[str, Any]:
    return to_sampling(Parameters(**parameters), settings, vocab_size=100)


def test_the_default_is_greedy_without_penalties(settings: Settings) -> None:
    fields = sampling(settings)
    assert fields["temperature"] == 0
    assert fields["repetition_penalty"] == 1
    assert fields["presence_penalty"] == fields["frequency_penalty"] == 0
    assert "max_tokens" not in fields


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({"temperature": 1e-6}, 0),
        ({"temperature": 0.3}, 0.3),
        ({"do_sample": False, "temperature": 0.7}, 0),
        ({"do_sample": True}, 1),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
    ],
)
def test_temperature_follows_do_sample(
    settings: Settings, parameters: dict[str, Any], temperature: float
) -> None:
    assert sampling(settings, **parameters)["temperature"] == temperature


def test_a_deployment_overrides_the_defaults(settings: Settings) -> None:
    warm = settings.model_copy(update={"default_temperature": 0.8})
    assert sampling(warm)["temperature"] == 0.8
    assert sampling(warm, temperature=0.0)["temperature"] == 0


def test_max_new_tokens_is_max_tokens(settings: Settings) -> None:
    assert sampling(settings, max_new_tokens=7)["max_tokens"] == 7


def test_only_fields_that_vllm_knows_go_to_the_engine(settings: Settings) -> None:
    from vllm.sampling_params import SamplingParams

    fields = sampling(settings, max_new_tokens=7, do_sample=True, raw=True, stop="a", seed=1)
    assert set(fields) <= set(SamplingParams.__struct_fields__)


def test_token_ids_of_logit_bias_become_numbers(settings: Settings) -> None:
    assert sampling(settings, logit_bias={"5": -1.0})["logit_bias"] == {5: -1.0}


def test_the_default_length_is_cut_to_what_fits(settings: Settings) -> None:
    fields = sampling(settings)
    assert with_max_tokens(fields, 90, 100, 512)["max_tokens"] == 10
    assert with_max_tokens(fields, 90, 1000, 512)["max_tokens"] == 512


def test_a_length_that_was_asked_for_must_fit(settings: Settings) -> None:
    fields = sampling(settings, max_tokens=20)
    assert with_max_tokens(fields, 80, 100, 512)["max_tokens"] == 20
    with pytest.raises(InvalidRequestError, match="at most 19"):
        with_max_tokens(fields, 81, 100, 512)
