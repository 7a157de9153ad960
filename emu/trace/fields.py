"""What the fields of an event are: the one place that both machine-readable output and its schema ask."""

from __future__ import annotations

from typing import Any, get_type_hints

ADDRESSES = frozenset(
    (
        "base",
        "start",
        "end",
        "address",
        "slot",
        "object",
        "dso_handle",
        "dtv",
        "pc",
        "stack",
        "dynamic",
        "entry",
        "phdr",
        "block",
        "tcb",
        "chosen",
    )
)
"""Integer fields that are guest addresses, by name; every other integer is a count, a size or a number."""


def event_name(event_type: type[Any]) -> str:
    """Return the event's name in output: the class's in snake_case."""
    return "".join("_" + c.lower() if c.isupper() else c for c in event_type.__name__).lstrip("_")


def field_kinds(event_type: type[Any]) -> dict[str, str]:
    """Return each field of an event type in order with its kind:
    "string", "strings", "boolean", "integer" or "address".

    Raises TypeError for a field of another type.
    """
    kinds = {str: "string", bool: "boolean", int: "integer", tuple[str, ...]: "strings"}
    result = {}
    for name, hint in get_type_hints(event_type).items():
        if hint not in kinds:
            raise TypeError(f"{event_type.__name__}.{name}: no output for {hint}")
        result[name] = "address" if hint is int and name in ADDRESSES else kinds[hint]
    return result
