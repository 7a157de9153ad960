"""Every event as text and as JSON, whatever its fields hold."""

from __future__ import annotations

import inspect
import json
from typing import Any

import jsonschema
import pytest

from emu.core.events import CATEGORIES, CATEGORY_OF, EVENT_TYPES, ON_REQUEST, Record
from emu.trace import jsonl, text
from emu.trace.fields import ADDRESSES, event_name, field_kinds
from emu.trace.schema import schema

NUMBERS = frozenset((
    "value", "align", "bits", "by_namespace", "cached_lookups", "count_after", "count_before", "cycles", "generation", "ifunc", "joiner",
    "lazy", "load_cycles", "lookups", "module", "namespace", "next", "number", "objects", "offset", "opencount", "opencount_after", "opencount_before",
    "phnum", "previous", "process", "relative", "relocation_cycles", "size", "slots", "status", "surplus", "symbolic", "thread", "used",
))  # fmt: skip
"""Integer fields that are no addresses."""


def _example(event_type: type[Any], string: str = "some name") -> Record:
    """A record of the type; addresses have a value of their own, so that hexadecimal shows."""
    values = {"string": string, "strings": (string, string), "boolean": True, "integer": 7, "address": 0xABC0}
    return Record(
        1, 1_500_000_000, 42, event_type(*(values[kind] for kind in field_kinds(event_type).values()))
    )


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_text_line(event_type: type[Any]) -> None:
    line = text.render(_example(event_type))
    assert line.split()[:4] == ["1", "1.500000000", "42", CATEGORY_OF[event_type]]
    kinds = field_kinds(event_type)
    assert ("0xabc0" in line) == ("address" in kinds.values())
    assert "some name" in line or "string" not in kinds.values()
    assert text.render_brief(_example(event_type)).split() == ["42", *line.split()[4:]]


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_hostile_name_stays_on_its_line(event_type: type[Any]) -> None:
    line = text.render(_example(event_type, "a\n\x1b[2Jb\udcff"))
    assert line.isprintable()
    parsed = json.loads(jsonl.render(_example(event_type, "a\n\x1b[2Jb\udcff")))
    kinds = field_kinds(event_type)
    strings = [name for name, kind in kinds.items() if kind == "string"]
    assert all(parsed[name] == ["a\n\x1b[2Jb\udcff"] * 2 for name, kind in kinds.items() if kind == "strings")
    assert all(parsed[name] == "a\n\x1b[2Jb\udcff" for name in strings)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_json_line_follows_the_schema(event_type: type[Any]) -> None:
    line = jsonl.render(_example(event_type))
    assert line.startswith(jsonl.BEGINNING)
    parsed = json.loads(line)
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(parsed)
    assert parsed["event"] == event_name(event_type)
    for name in field_kinds(event_type):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({key: value for key, value in parsed.items() if key != name})


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_colour_only_wraps_the_category(event_type: type[Any]) -> None:
    coloured = text.render_coloured(_example(event_type))
    start, end = coloured.index("\x1b["), coloured.index("\x1b[0m")
    assert coloured[coloured.index("m", start) + 1 : end] == CATEGORY_OF[event_type]


def test_the_schema_itself_is_one_and_describes_every_event() -> None:
    whole = schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    for event_type in EVENT_TYPES:
        definition = whole["$defs"][event_name(event_type)]
        assert definition["description"] == inspect.getdoc(event_type)
        assert definition["properties"]["category"]["const"] in (*CATEGORIES, *ON_REQUEST)


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_integer_is_known_as_an_address_or_a_number(event_type: type[Any]) -> None:
    kinds = field_kinds(event_type)
    integers = {name for name, kind in kinds.items() if kind in ("integer", "address")}
    assert integers <= ADDRESSES | NUMBERS


def test_no_field_is_an_address_here_and_a_number_there() -> None:
    assert not ADDRESSES & NUMBERS
