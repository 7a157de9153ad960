"""The JSON Schema of a line of `--trace-format jsonl`, made from the event types themselves.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

from typing import Any

from emu.core.events import CATEGORY_OF, EVENT_TYPES
from emu.core.schema import Schema, address, document, object_of, reference
from emu.trace.fields import event_name, field_kinds

_KINDS: dict[str, Schema] = {
    "string": {"type": "string"},
    "strings": {"type": "array", "items": {"type": "string"}},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "address": reference("address"),
}


def _event_schema(event_type: type[Any]) -> Schema:
    stamp: Schema = {
        "seq": reference("seq"),
        "time_ns": reference("time_ns"),
        "task": reference("task"),
        "category": {"const": CATEGORY_OF[event_type]},
        "event": {"const": event_name(event_type)},
    }
    fields = {name: _KINDS[kind] for name, kind in field_kinds(event_type).items()}
    return object_of(event_type, stamp | fields, {"pid": reference("pid")})


def schema() -> Schema:
    """Return the schema of one line, as what `json.dumps` takes."""
    definitions: Schema = {
        "address": address("A guest address in hexadecimal."),
        "seq": {"type": "integer", "minimum": 1, "description": "Number of the event in its run, from 1."},
        "time_ns": {
            "type": "integer",
            "minimum": 0,
            "description": "Nanoseconds of virtual time since the start.",
        },
        "task": {"type": "integer", "description": "The guest's thread id."},
        "pid": {"type": "integer", "description": "The process's id, where it is not the first one."},
    }
    names = {event_name(event_type): event_type for event_type in EVENT_TYPES}
    definitions |= {name: _event_schema(event_type) for name, event_type in names.items()}
    one = {"oneOf": [reference(name) for name in names]}
    return document("One line of emu run --trace-format jsonl", one, definitions)
