"""Rules of request bodies that hold between fields, in JSON Schema's words for the document.

The checks themselves are the validators of parameters.py and api/requests.py.
"""

from typing import Any

JsonSchema = dict[str, Any]
NULL: JsonSchema = {"type": "null"}


def allow_null(schema: JsonSchema) -> None:
    """Every member that has a default may be null, which stands for it."""
    fields = schema.get("properties", {})
    for name in fields.keys() - set(schema.get("required", ())):
        kinds = fields[name].get("anyOf", ())
        if NULL not in kinds:
            fields[name] = _or_null(fields[name])


def document_one_kind(schema: JsonSchema) -> None:
    """Exactly one of structured_outputs' members is not null."""
    kinds = schema.pop("properties")
    schema["oneOf"] = [
        {
            "title": kind,
            "type": "object",
            "properties": {
                name: _not_null(field) if name == kind else NULL for name, field in kinds.items()
            },
            "required": [kind],
            "additionalProperties": False,
        }
        for kind in kinds
    ]
    del schema["additionalProperties"]


def document_alias(schema: JsonSchema) -> None:
    """`input` in place of `prompt`, which is no field of its own; and that neither may be empty."""
    fields = schema["properties"]
    one, many = fields["prompt"]["anyOf"]
    prompt = {"anyOf": [one | {"minLength": 1}, many | {"minItems": 1}, NULL]}
    fields["prompt"] |= prompt
    fields["input"] = prompt | {"title": "Input", "description": "alias of prompt"}
    del schema["required"]
    schema["oneOf"] = [
        {"required": [name], "properties": {name: {"not": NULL}, other: NULL}}
        for name, other in (("prompt", "input"), ("input", "prompt"))
    ]
    schema["examples"] = [{"prompt": "感冒了怎么办？\n答：", "parameters": {"max_tokens": 64}}]


def _or_null(field: JsonSchema) -> JsonSchema:
    about, kind = _apart(field, {"title", "description", "default"})
    kinds = kind.pop("anyOf") if list(kind) == ["anyOf"] else [kind]
    return {**about, "anyOf": [*kinds, NULL]}


def _apart(field: JsonSchema, names: set[str]) -> tuple[JsonSchema, JsonSchema]:
    """The members of these names, and all others."""
    chosen = {key: value for key, value in field.items() if key in names}
    return chosen, {key: value for key, value in field.items() if key not in names}


def _not_null(field: JsonSchema) -> JsonSchema:
    (typed,) = (each for each in field["anyOf"] if each != NULL)
    return {**{key: value for key, value in field.items() if key != "anyOf"}, **typed}


def _set(name: str, **rule: Any) -> JsonSchema:
    return {"required": [name], "properties": {name: rule or {"not": NULL}}}


def _not_both(one: str, other: str) -> JsonSchema:
    return {"not": {"allOf": [_set(one), _set(other)]}}


_ALONE = [
    {"not": {"allOf": [_set("raw", const=True), _set(name)]}}
    for name in ("system", "history", "thinking")
]
VERBATIM: JsonSchema = {"allOf": _ALONE}
"""What is sent verbatim has nothing around it."""
TOGETHER: JsonSchema = {
    "allOf": [
        *_ALONE,
        _not_both("max_tokens", "max_new_tokens"),
        _not_both("beam_width", "num_beams"),
        _not_both("beam_width", "best_of"),
        _not_both("num_beams", "best_of"),
        {
            "if": _set("best_of", minimum=2, type="integer"),
            "then": _set("use_beam_search", const=True),
        },
        {
            "if": _set("use_beam_search", const=True),
            "then": {"anyOf": [_set(name) for name in ("beam_width", "num_beams", "best_of")]},
        },
    ]
}
