"""The JSON Schema of what emu writes: an object for each class, from the properties that its module knows.

Source: JSON Schema 2020-12.
"""

from __future__ import annotations

import inspect
from typing import Any

Schema = dict[str, Any]


def address(about: str, *, signed: bool = False) -> Schema:
    """Return the schema of a guest address as hexadecimal text,
    which may be a negative offset if `signed`.
    """
    return {"type": "string", "pattern": f"^{'-?' if signed else ''}0x[0-9a-f]+$", "description": about}


def object_of(kind: type[Any], properties: Schema, optional: Schema | None = None) -> Schema:
    """Return the schema of an object that has all of the properties, may have `optional` ones, and no other.

    The class's docstring says what it is.
    """
    return {
        "description": inspect.getdoc(kind) or "",
        "type": "object",
        "properties": properties | (optional or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


def document(title: str, body: Schema, definitions: Schema) -> Schema:
    """Return a whole schema, as what `json.dumps` takes."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": title, **body, "$defs": definitions}


def reference(name: str) -> Schema:
    """Return the schema of what a definition says."""
    return {"$ref": f"#/$defs/{name}"}
