"""Events as JSON Lines: one object a line, with the members that `emu trace-schema` describes.

Source: https://jsonlines.org; RFC 8259.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emu.core.events import CATEGORY_OF, EVENT_TYPES
from emu.trace.fields import event_name, field_kinds

if TYPE_CHECKING:
    from emu.core.events import Record

BEGINNING = '{"seq":1,"time_ns":'
"""How every trace in this format begins: the first event of a run has the sequence number 1."""

_NAMES = {event_type: event_name(event_type) for event_type in EVENT_TYPES}
_ADDRESS_FIELDS: dict[type[Any], frozenset[str]] = {}
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _addresses(event_type: type[Any]) -> frozenset[str]:
    known = _ADDRESS_FIELDS.get(event_type)
    if known is None:
        kinds = field_kinds(event_type)
        known = _ADDRESS_FIELDS[event_type] = frozenset(n for n, kind in kinds.items() if kind == "address")
    return known


def render(record: Record) -> str:
    """Return the record's line, without the newline.

    A byte of a guest's name that is not UTF-8 appears as the escape of a lone surrogate (PEP 383).
    """
    event = record.event
    kind = type(event)
    line = {
        "seq": record.sequence,
        "time_ns": record.time,
        "task": record.task,
        "category": CATEGORY_OF[kind],
        "event": _NAMES[kind],
    }
    if record.process:
        line["pid"] = record.process
    addresses = _addresses(kind)
    for name, value in zip(kind._fields, event, strict=True):
        line[name] = hex(value) if name in addresses else value
    return _encode(line)
