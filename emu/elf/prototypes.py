"""How a function is declared, as far as calling it from a command line goes:
the kinds of its parameters and of its result, from DWARF.

Source: DWARF 5 3.3 (subroutines), 5.1 to 5.7 (types), 7.8 (base type encodings).
"""

from __future__ import annotations

from typing import Any

from emu.core.record import NamedTuple

_ADDRESS, _BOOLEAN, _FLOAT, _SIGNED, _SIGNED_CHAR, _UNSIGNED, _UNSIGNED_CHAR, _UTF = 1, 2, 4, 5, 6, 7, 8, 0x10
_INTEGERS = {1: "char", 2: "short", 4: "int", 8: "long"}
_REFERENCES = ("DW_TAG_reference_type", "DW_TAG_rvalue_reference_type")
_POINTERS = ("DW_TAG_array_type", "DW_TAG_subroutine_type")
_NAMES_OF_OTHERS = (
    "DW_TAG_typedef",
    "DW_TAG_const_type",
    "DW_TAG_volatile_type",
    "DW_TAG_restrict_type",
    "DW_TAG_atomic_type",
)
_HOPS = 32
"""Typedefs and qualifiers in a row, and entries that one function's declaration is spread over;
a file that has more is made to be.
"""


class DebugPrototype(NamedTuple):
    """`returns` and `parameters` are kinds: char, uchar, short, ushort, int, uint, long, ulong, bool, float,
    double, str, ptr, void; KIND * and KIND & for what points to one of these or to another type; or, for
    what is none of these, the type as people write it. `names` has the enumerators of each parameter's type,
    `result_names` those of the result's.
    """

    returns: str
    parameters: tuple[str, ...]
    variadic: bool
    names: tuple[dict[str, int], ...]
    result_names: dict[str, int]


def read_prototype(die: Any) -> DebugPrototype | None:
    """Return the prototype of a DW_TAG_subprogram; None where it has none (K&R C, assembly).

    Raises what pyelftools raises.
    """
    entries = _entries(die)
    if not any("DW_AT_prototyped" in e.attributes or _is_cxx(e) for e in entries):
        return None
    children = next((found for e in entries if (found := list(e.iter_children()))), [])
    types = [_type_of(child) for child in children if child.tag == "DW_TAG_formal_parameter"]
    variadic = any(child.tag == "DW_TAG_unspecified_parameters" for child in children)
    typed = next((e for e in entries if "DW_AT_type" in e.attributes), None)
    result = _type_of(typed) if typed is not None else None
    return DebugPrototype(
        _kind(result),
        tuple(map(_kind, types)),
        variadic,
        tuple(map(_enumerators, types)),
        _enumerators(result),
    )


def is_external(die: Any) -> bool:
    """Whether a DW_TAG_subprogram is known outside of its unit. Source: DWARF 5 3.3.1 (DW_AT_external)."""
    return any("DW_AT_external" in entry.attributes for entry in _entries(die))


def _entries(die: Any) -> list[Any]:
    """Return an entry and those that it completes: its declaration, its abstract instance."""
    entries = [die]
    while len(entries) < _HOPS:
        link = next(
            (a for a in ("DW_AT_abstract_origin", "DW_AT_specification") if a in entries[-1].attributes), None
        )
        if link is None:
            break
        entries.append(entries[-1].get_DIE_from_attribute(link))
    return entries


def _is_cxx(die: Any) -> bool:
    language = die.cu.get_top_DIE().attributes.get("DW_AT_language")
    return language is None or language.value not in (
        0x0001,
        0x0002,
        0x000C,
        0x001D,
        0x002C,
    )  # C89, C, C99, C11, C17


def _type_of(die: Any) -> Any:
    """Return the entry of an entry's type, None for void;
    a parameter of a concrete function has it at its origin.
    """
    for _ in range(_HOPS):
        if "DW_AT_type" in die.attributes:
            return die.get_DIE_from_attribute("DW_AT_type")
        if "DW_AT_abstract_origin" not in die.attributes:
            return None
        die = die.get_DIE_from_attribute("DW_AT_abstract_origin")
    return None


def _stripped(die: Any) -> Any:
    for _ in range(_HOPS):
        if die is None or die.tag not in _NAMES_OF_OTHERS:
            return die
        die = die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None
    return die


def _kind(declared: Any) -> str:
    die = _stripped(declared)
    if die is None:
        return "void"
    size = die.attributes["DW_AT_byte_size"].value if "DW_AT_byte_size" in die.attributes else 8
    if die.tag == "DW_TAG_base_type":
        return _base(die, size)
    if die.tag == "DW_TAG_enumeration_type":
        underlying = _stripped(_type_of(die))  # C has none
        return (
            _base(underlying, size) if _tag(underlying) == "DW_TAG_base_type" else _INTEGERS.get(size, "int")
        )
    if die.tag == "DW_TAG_pointer_type":
        return _pointer(_type_of(die))
    if die.tag in _REFERENCES:
        target = _type_of(die)
        return f"{_kind(target) if _is_value(_stripped(target)) else _named(target)} &"
    if die.tag in _POINTERS:
        return "ptr"
    return _named(declared)


def _pointer(declared: Any) -> str:
    """Return the kind of a pointer: text, what may be anything (void, a function), or to what."""
    target = _stripped(declared)
    if target is None or target.tag in _POINTERS:
        return "ptr"
    if not _is_value(target):
        return f"{_named(declared)} *"
    kind = _kind(target)
    is_text = target.tag == "DW_TAG_base_type" and _encoding(target) in (_SIGNED_CHAR, _UNSIGNED_CHAR)
    return "str" if is_text and kind in ("char", "uchar") else f"{kind} *"


def _is_value(die: Any) -> bool:
    return _tag(die) in ("DW_TAG_base_type", "DW_TAG_enumeration_type")


def _tag(die: Any) -> str:
    return str(die.tag) if die is not None else ""


def _enumerators(die: Any) -> dict[str, int]:
    """Return the names of an enumeration's values, empty for other types."""
    die = _stripped(die)
    if die is None or die.tag != "DW_TAG_enumeration_type":
        return {}
    return {
        child.attributes["DW_AT_name"].value.decode("utf-8", "backslashreplace"): int(
            child.attributes["DW_AT_const_value"].value
        )
        for child in die.iter_children()
        if {"DW_AT_name", "DW_AT_const_value"} <= child.attributes.keys()
    }


def _base(die: Any, size: int) -> str:
    encoding = _encoding(die)
    if encoding == _BOOLEAN:
        return "bool"
    if encoding == _FLOAT:
        return {4: "float", 8: "double"}.get(size, _named(die))
    name = _INTEGERS.get(size, _named(die))
    if encoding in (_SIGNED, _SIGNED_CHAR):
        return name
    return f"u{name}" if encoding in (_UNSIGNED, _UNSIGNED_CHAR, _UTF) and size in _INTEGERS else _named(die)


def _encoding(die: Any) -> int:
    return int(die.attributes["DW_AT_encoding"].value) if "DW_AT_encoding" in die.attributes else 0


def _named(die: Any) -> str:
    """Return a type as people write it: by its typedef if it has one, without qualifiers."""
    for _ in range(_HOPS):
        if die is None or die.tag == "DW_TAG_pointer_type":
            return "ptr"
        if die.tag == "DW_TAG_typedef" and "DW_AT_name" in die.attributes:
            return str(die.attributes["DW_AT_name"].value.decode("utf-8", "backslashreplace"))
        if die.tag not in _NAMES_OF_OTHERS:
            break
        die = die.get_DIE_from_attribute("DW_AT_type") if "DW_AT_type" in die.attributes else None
    kind = die.tag.removeprefix("DW_TAG_").removesuffix("_type").replace("structure", "struct")
    name = (
        die.attributes["DW_AT_name"].value.decode("utf-8", "backslashreplace")
        if "DW_AT_name" in die.attributes
        else ""
    )
    return name if die.tag == "DW_TAG_base_type" else f"{kind} {name}".rstrip()
