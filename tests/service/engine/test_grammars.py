"""What structured outputs may cost, and words that must not occur, on llguidance itself."""

import asyncio
import json
import random
import threading
from typing import Any

import llguidance
import llguidance.hf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
from vllm.v1.structured_output.request import StructuredOutputOptions

from service.engine.grammars.bad_words import MARK, without
from service.engine.grammars.bounded import MOST_SLOW_TOKENS, BoundedGrammar, limits_of
from service.engine.grammars.size import refuse_costly
from service.engine.grammars.trial import GrammarTrial
from service.engine.refusals import RefusedError

COSTLY = {
    "nested counts": {"regex": "(a{600}){600}"},
    "a million": {"regex": "(a{1000}){1000}"},
    "optional ones": {"regex": "(a?){3000}a{3000}"},
    "ambiguous": {"grammar": '%llguidance {}\nstart: s\ns: s s s | s s | "a" | "b" |'},
    "two thousand rules": {
        "grammar": "%llguidance {}\nstart: "
        + " | ".join(f"r{i}" for i in range(2500))
        + "".join(f'\nr{i}: "a" /b{i}/ "c"' for i in range(2500))
    },
    "no grammar": {"grammar": "%llguidance {}\nstart: ("},
    "no regex": {"regex": "(?=a)"},
}
CHEAP = {
    "dates": {"regex": r"\d{4}-\d{2}-\d{2}"},
    "a long text": {"regex": r"[\s\S]{0,2000}"},
    "a list": {"regex": "[一-龥]{1,50}(，[一-龥]{1,50}){0,30}"},
    "choices": {"choice": [f"选项{i}" for i in range(1000)]},
    "fields": {
        "json": {"type": "object", "properties": {f"f{i}": {"type": "string"} for i in range(100)}}
    },
    "entities": {
        "json": {
            "type": "array",
            "maxItems": 50,
            "items": {"type": "object", "properties": {"实体": {"type": "string"}}},
        }
    },
    "any JSON": {"json_object": True},
}


@pytest.fixture(scope="module")
def trial(tokenizer: Any) -> GrammarTrial:
    return GrammarTrial(tokenizer, len(tokenizer), most_ms=3.0)


@pytest.mark.parametrize("name", COSTLY)
def test_costly_constraints_are_refused_before_the_engine_gets_them(
    trial: GrammarTrial, name: str
) -> None:
    with pytest.raises(RefusedError, match="structured_outputs") as refused:
        asyncio.run(GrammarTrial.check(trial, StructuredOutputsParams(**COSTLY[name])))
    assert refused.value.parameter == "structured_outputs"


@pytest.mark.parametrize("name", CHEAP)
def test_what_people_use_is_taken(trial: GrammarTrial, name: str) -> None:
    asyncio.run(trial.check(StructuredOutputsParams(**CHEAP[name])))


def test_a_constraint_is_tried_once(trial: GrammarTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(trial, "_problem", lambda *key: tried.append(key))

    async def many() -> None:
        constraint = StructuredOutputsParams(regex="once{1,9}")
        await asyncio.gather(*(trial.check(constraint) for _ in range(50)))

    asyncio.run(many())
    assert len(tried) == 1


def wide(fields: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"f{i}": {"type": "string"} for i in range(fields)}}


@pytest.mark.parametrize(
    "schema",
    [
        wide(100_000),
        json.dumps(wide(100_000)),
        {"enum": ["x"] * 10**6},
        {"enum": ["x" * 2**17]},
        {"x" * 2**17: {}},
        {"allOf": [{}] * 70_000},
        {"const": "感" * 20_000},
    ],
    ids=["fields", "text", "values", "long value", "long name", "schemas", "escapes"],
)
def test_large_schemas_are_refused_before_they_are_read_whole(
    trial: GrammarTrial, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_whole(*_: Any) -> None:
        raise AssertionError("it was read whole")

    monkeypatch.setattr(trial, "_outcome", lambda *_: pytest.fail("it was tried"))
    if "const" not in schema:  # only writing it tells how many bytes its escapes take
        monkeypatch.setattr(json, "dumps", read_whole)
    monkeypatch.setattr(json, "loads", read_whole)
    with pytest.raises(RefusedError, match="more than 65536 bytes"):
        asyncio.run(trial.check(StructuredOutputsParams(json=schema)))


def test_the_prompts_of_a_list_share_what_was_read(
    trial: GrammarTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One schema written 1,024 times took the event loop seconds."""
    read: list[Any] = []
    monkeypatch.setattr("service.engine.grammars.trial.refuse_costly", read.append)
    schema, other = json.dumps(wide(50)), json.dumps(wide(51))
    for content in (schema, schema, other, schema):
        asyncio.run(trial.check(StructuredOutputsParams(json=content)))
    assert len(read) == 2


def test_a_trial_ends_with_the_last_who_waits_for_it(trial: GrammarTrial) -> None:
    first, second = (StructuredOutputsParams(regex=f"leaves{{1,{i}}}") for i in (7, 8))
    begin, tried = threading.Event(), []
    real = trial._problem

    def slow(*key: Any) -> str | None:
        tried.append(key)
        begin.wait(10)
        return real(*key)

    async def leave() -> None:
        trial._problem = slow  # type: ignore[method-assign,assignment]
        running = asyncio.create_task(trial.check(first))
        queued = [asyncio.create_task(trial.check(second)) for _ in range(2)]
        await asyncio.sleep(0.05)
        queued[0].cancel()
        await asyncio.sleep(0)
        assert not queued[1].done()
        queued[1].cancel()
        await asyncio.wait(queued)
        begin.set()
        await running
        assert len(tried) == 1
        await trial.check(second)
        assert len(tried) == 2

    try:
        asyncio.run(leave())
    finally:
        del trial._problem


def test_a_trial_that_fell_over_is_not_remembered(
    trial: GrammarTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = StructuredOutputsParams(regex="falls{1,9}")

    def fall(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(trial, "_problem", fall)
        with pytest.raises(MemoryError):
            asyncio.run(trial.check(constraint))
    asyncio.run(trial.check(constraint))


def test_a_tokenizer_that_no_grammar_can_follow_is_told(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise ValueError("Unsupported tokenizer")

    monkeypatch.setattr(llguidance.hf, "from_tokenizer", unknown)
    trial = GrammarTrial(tokenizer, len(tokenizer), most_ms=3.0)
    with pytest.raises(RefusedError, match="Unsupported tokenizer"):
        asyncio.run(trial.check(StructuredOutputsParams(regex="a")))


def test_a_grammar_that_stays_slow_ends_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("service.engine.grammars.bounded.time.thread_time", lambda: next(clock))
    monkeypatch.setattr(BoundedGrammar.__base__, "fill_bitmask", lambda *_: None)
    monkeypatch.setattr(BoundedGrammar.__base__, "accept_tokens", lambda *_: True)
    grammar = BoundedGrammar(None, None, 8)
    for _ in range(MOST_SLOW_TOKENS):
        grammar.fill_bitmask(None, 0)
        assert grammar.accept_tokens("id", [1])
    grammar.fill_bitmask(None, 0)
    assert not grammar.accept_tokens("id", [1])


def matches(grammar: str, text: str, tokenizer: Any, ll: Any) -> bool:
    kind = StructuredOutputOptions.GRAMMAR
    matcher = llguidance.LLMatcher(
        ll, serialize_guidance_grammar(kind, grammar), limits=limits_of(grammar), log_level=0
    )
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_special_tokens=False)
    return bool(matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids))


@pytest.fixture(scope="module")
def ll(tokenizer: Any) -> Any:
    return llguidance.hf.from_tokenizer(tokenizer, len(tokenizer))


@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(st.text('医疗病情ab "\\/.*\n', min_size=1, max_size=4), min_size=1, max_size=4),
    text=st.text('医疗病情ab "\\/.*\n感', max_size=12),
)
def test_exactly_the_texts_without_the_words_are_allowed(
    tokenizer: Any, ll: Any, words: list[str], text: str
) -> None:
    if tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) != text:
        return  # the vocabulary cannot write it
    allowed = matches(without(words, []), text, tokenizer, ll)
    assert allowed == (not any(word in text for word in words))


def test_two_hundred_words_are_not_too_many(trial: GrammarTrial, tokenizer: Any) -> None:
    known = sorted(word for word in tokenizer.get_vocab() if len(word) > 1 and word.isalpha())
    words = random.Random(0).sample(known, min(200, len(known)))
    kind = StructuredOutputOptions.GRAMMAR
    asyncio.run(trial.check_text(kind, without(words, []), "bad_words"))


def test_the_end_tokens_of_the_model_stay_allowed(tokenizer: Any, ll: Any) -> None:
    other = tokenizer.convert_tokens_to_ids("。")
    grammar = without(["医"], [other])
    matcher = llguidance.LLMatcher(ll, grammar, limits=limits_of(grammar))
    assert matcher.consume_tokens([other])
    assert matcher.is_accepting()


def test_a_users_grammar_cannot_pass_for_one_of_ours() -> None:
    with pytest.raises(ValueError, match="may not hold"):
        refuse_costly(StructuredOutputsParams(grammar=f"%llguidance {{}}\n{MARK}start: /a/"))


def test_a_word_is_quoted() -> None:
    word = 'a"\\\n/'
    assert json.dumps(word) in without([word], [])
