"""The JSON Schema of a line of `--trace-format jsonl`, made from the event types themselves.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import inspect
from typing import Any

from emu.core.events import CATEGORY_OF, EVENT_TYPES
from emu.trace.fields import event_name, field_kinds

_KINDS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "strings": {"type": "array", "items": {"type": "string"}},
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer"},
    "address": {"$ref": "#/$defs/address"},
}


def _event_schema(event_type: type[Any]) -> dict[str, Any]:
    stamp: dict[str, Any] = {
        "seq": {"$ref": "#/$defs/seq"},
        "time_ns": {"$ref": "#/$defs/time_ns"},
        "task": {"$ref": "#/$defs/task"},
        "category": {"const": CATEGORY_OF[event_type]},
        "event": {"const": event_name(event_type)},
    }
    properties = stamp | {name: _KINDS[kind] for name, kind in field_kinds(event_type).items()}
    return {
        "description": inspect.getdoc(event_type) or "",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schema() -> dict[str, Any]:
    """Return the schema of one line, as what `json.dumps` takes."""
    definitions: dict[str, Any] = {
        "address": {
            "type": "string",
            "pattern": "^0x[0-9a-f]+$",
            "description": "A guest address in hexadecimal.",
        },
        "seq": {"type": "integer", "minimum": 1, "description": "Number of the event in its run, from 1."},
        "time_ns": {
            "type": "integer",
            "minimum": 0,
            "description": "Nanoseconds of virtual time since the start.",
        },
        "task": {"type": "integer", "description": "The guest's thread id."},
    }
    definitions |= {event_name(event_type): _event_schema(event_type) for event_type in EVENT_TYPES}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of emu run --trace-format jsonl",
        "oneOf": [{"$ref": f"#/$defs/{event_name(event_type)}"} for event_type in EVENT_TYPES],
        "$defs": definitions,
    }
