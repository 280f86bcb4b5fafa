"""From a request's parameters to SamplingParams fields."""

from typing import Any

import pytest

from service.errors import InvalidRequestError
from service.generation.plan import Plan, refuse_long_answer, to_plan
from service.parameters import Parameters, checked
from service.settings import Settings


def plan(settings: Settings, **parameters: Any) -> Plan:
    return to_plan(Parameters(**parameters), settings.default_parameters, settings.presets)


def sampling(settings: Settings, **parameters: Any) -> dict[str, Any]:
    return plan(settings, **parameters).sampling


def test_the_default_is_greedy_without_penalties(settings: Settings) -> None:
    assert sampling(settings) == {"temperature": 0}


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
    defaults = checked({"temperature": 0.8, "max_new_tokens": 50})
    warm = settings.model_copy(update={"default_parameters": defaults})
    assert sampling(warm)["temperature"] == 0.8
    assert sampling(warm, temperature=0.0)["temperature"] == 0
    assert plan(warm).for_prompt(10, 100)["max_tokens"] == 50
    assert plan(warm).for_prompt(80, 100)["max_tokens"] == 20


def test_a_preset_stands_between_the_request_and_the_defaults(settings: Settings) -> None:
    presets = {"warm": checked({"temperature": 0.8, "top_p": 0.9})}
    both = settings.model_copy(
        update={"default_parameters": {"top_p": 0.5, "top_k": 7}, "presets": presets}
    )
    assert sampling(both, preset="warm", temperature=0.3) == {
        "temperature": 0.3, "top_p": 0.9, "top_k": 7,
    }  # fmt: skip
    with pytest.raises(InvalidRequestError, match="known: warm"):
        sampling(both, preset="cold")


def test_the_baselines_penalties_are_a_preset(settings: Settings) -> None:
    fields = sampling(settings, preset="promptcblue-baseline")
    assert fields["presence_penalty"] == fields["frequency_penalty"] == 0.2


@pytest.mark.parametrize(
    "parameters",
    [
        {"beam_width": 4},
        {"num_beams": 4, "temperature": 0.0},
        {"use_beam_search": True, "best_of": 4, "n": 4},
    ],
)
def test_beams_under_each_of_their_names(settings: Settings, parameters: dict[str, Any]) -> None:
    made = plan(settings, **parameters)
    assert (made.beam_width, made.sampling) == (4, {"n": 4})


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"beam_width": 4, "temperature": 0.5}, "temperature"),
        ({"beam_width": 4, "stop": "a"}, "stop"),
        ({"beam_width": 4, "n": 5}, "n"),
        ({"beam_width": 32, "stop_token_ids": [1]}, "beam_width"),
        ({"length_penalty": 0.5}, "length_penalty"),
    ],
)
def test_what_does_not_go_with_beams_is_refused(
    settings: Settings, parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        plan(settings, **parameters)
    assert caught.value.param == f"parameters.{param}"


def test_a_bad_default_is_named() -> None:
    with pytest.raises(ValueError, match="top_p"):
        checked({"top_p": 7})


def test_max_new_tokens_is_max_tokens(settings: Settings) -> None:
    assert plan(settings, max_new_tokens=7).max_tokens == 7


def test_only_fields_that_vllm_knows_go_to_the_engine(settings: Settings) -> None:
    from vllm.sampling_params import SamplingParams

    fields = sampling(settings, max_new_tokens=7, do_sample=True, raw=True, stop="a", seed=1)
    assert set(fields) <= set(SamplingParams.__struct_fields__)


def test_token_ids_of_logit_bias_become_numbers(settings: Settings) -> None:
    assert sampling(settings, logit_bias={"5": -1.0})["logit_bias"] == {5: -1.0}


def test_the_default_length_is_cut_to_what_fits(settings: Settings) -> None:
    assert plan(settings).for_prompt(90, 100)["max_tokens"] == 10
    assert plan(settings).for_prompt(90, 1000)["max_tokens"] == 512


def test_a_length_that_was_asked_for_must_fit(settings: Settings) -> None:
    asked = plan(settings, max_tokens=20)
    assert asked.for_prompt(80, 100)["max_tokens"] == 20
    with pytest.raises(InvalidRequestError, match="at most 19"):
        asked.for_prompt(81, 100)


@pytest.mark.parametrize(
    ("parameters", "prompts", "count"),
    [
        ({"logprobs": 0}, 1, 512),
        ({"logprobs": 20, "max_tokens": 10}, 1, 210),
        ({"logprobs": 20, "max_tokens": 10, "n": 4, "temperature": 1.0}, 3, 2520),
        ({"logprobs": 1, "max_new_tokens": 7}, 50, 700),
    ],
)
def test_log_probabilities_of_an_answer_are_counted_before_they_cost(
    settings: Settings, parameters: dict[str, Any], prompts: int, count: int
) -> None:
    asked = plan(settings, **parameters)
    refuse_long_answer(asked, prompts, 10**6, count)
    refuse_long_answer(asked, prompts, 1, count // 2)
    with pytest.raises(InvalidRequestError, match=f"may have {count} log") as refused:
        refuse_long_answer(asked, prompts, 10**6, count - 1)
    assert refused.value.param == "parameters.logprobs"


@pytest.mark.parametrize("parameters", [{"n": 128, "temperature": 1.0}, {"beam_width": 4}])
def test_an_answer_without_log_probabilities_may_be_long(
    settings: Settings, parameters: dict[str, Any]
) -> None:
    refuse_long_answer(plan(settings, **parameters, max_tokens=4000), 2048, 4096, 1)


def test_a_schema_becomes_a_text_once_for_all_prompts(settings: Settings) -> None:
    constraint = {"json": {"const": True}}
    presets = {"true": checked({"structured_outputs": constraint})}
    preset = settings.model_copy(update={"presets": presets})
    for told in (
        sampling(settings, structured_outputs=constraint),
        sampling(preset, preset="true"),
    ):
        assert told["structured_outputs"] == {"json": '{"const": true}'}
    assert presets["true"]["structured_outputs"] == constraint  # /info has a fingerprint of them
    large = {"json": {"enum": ["x" * 2**17]}}
    with pytest.raises(InvalidRequestError, match="more than 65536 bytes") as refused:
        sampling(settings, structured_outputs=large)
    assert refused.value.param == "parameters.structured_outputs"
