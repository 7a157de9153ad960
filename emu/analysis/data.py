"""Answers as JSON, and the JSON Schema of an answer: both made from the dataclasses themselves.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, NewType, Union, get_args, get_origin, get_type_hints

from emu.core.schema import Schema, address, document, object_of, reference

Address = NewType("Address", int)
"""A guest address, link-time address or offset: hexadecimal text in JSON."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something that could be changed: `code` names the kind for programs, `text` says it to people, `object`
    is the object concerned.
    """

    code: str
    object: str
    text: str


def as_json(answer: Any) -> dict[str, Any]:
    """Return a dataclass as what `json.dumps` takes, its fields in order;
    an `Address` becomes text such as 0x1130.

    A field whose metadata has `"json": False` is for the program alone.
    """
    return {name: _value(getattr(answer, name), hint) for name, hint in _fields(type(answer))}


def _fields(kind: type[Any]) -> list[tuple[str, Any]]:
    """Return the names of a dataclass's fields with their types: asked for once, since that is slow."""
    if kind not in _known:
        hints = get_type_hints(kind)
        _known[kind] = [(f.name, hints[f.name]) for f in fields(kind) if f.metadata.get("json", True)]
    return _known[kind]


_known: dict[type[Any], list[tuple[str, Any]]] = {}


def _value(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if hint is Address:
        return f"{'-' if value < 0 else ''}{abs(value):#x}"
    if get_origin(hint) is tuple:
        return [_value(item, get_args(hint)[0]) for item in value]
    return as_json(value) if is_dataclass(value) else value


def schema(answer_type: type[Any], title: str) -> Schema:
    """Return the JSON Schema of what `as_json` makes of a dataclass.

    Raises TypeError for a field of a kind that it does not know.
    """
    definitions: Schema = {"address": address("A guest address or offset.", signed=True)}
    root = _object(answer_type, definitions)
    return document(title, root, definitions)


def _object(kind: type[Any], definitions: Schema) -> Schema:
    hints = _fields(kind)  # without those that are for the program alone
    return object_of(kind, {name: _schema_of(hint, definitions) for name, hint in hints})


def _schema_of(hint: Any, definitions: Schema) -> Schema:
    simple = {str: "string", bool: "boolean", int: "integer", NoneType: "null"}
    if hint in simple:
        return {"type": simple[hint]}
    if hint is Address:
        return reference("address")
    if get_origin(hint) in (Union, UnionType):
        return {"anyOf": [_schema_of(kind, definitions) for kind in get_args(hint)]}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _schema_of(get_args(hint)[0], definitions)}
    if not is_dataclass(hint):
        raise TypeError(f"no output for {hint}")
    assert isinstance(hint, type)
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}
        definitions[hint.__name__] = _object(hint, definitions)
    return reference(hint.__name__)
