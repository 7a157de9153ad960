"""Sizes and members of C structures, as debugging information has them.

A definition that is complete is the same in every unit that has it; the units are read in their order until
all that is wanted is found.

Source: DWARF 5 5.5 (type modifiers), 5.7 (structures, bit-fields), 4 5.5.6 (bit-fields before DWARF 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.elf.debug_file import open_elf
from emu.elf.pyelf import malformed
from emu.elf.units import dwarf_info

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Structure = dict[str, Any]
"""`size` in bytes; `members`: for each name [offset, size], or [byte, 1, bit offset,
bits] for a bit-field, by offset.
"""

_QUALIFIERS = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type")
_NAMED = ("DW_TAG_structure_type", "DW_TAG_typedef")
_AGGREGATES = ("DW_TAG_structure_type", "DW_TAG_union_type")


def read_structures(path: str, wanted: Mapping[str, Sequence[str]]) -> dict[str, Structure]:
    """Return those of the `wanted` structures (or typedefs of structures) that the host file `path` defines,
    each with the wanted members that it has.

    Members of nested structures have dotted names; of an array, `NAME[]` is the first element with the
    element's size. A definition counts only if it has at least one of the wanted members. Raises ElfError,
    OSError.
    """
    found: dict[str, Structure] = {}
    elf = open_elf(path)
    with malformed(path):
        for unit in dwarf_info(elf, path).iter_CUs():
            for die in unit.iter_DIE_children(unit.get_top_DIE()):
                if die.tag not in _NAMED or "DW_AT_name" not in die.attributes:
                    continue
                name = die.attributes["DW_AT_name"].value.decode()
                if name in wanted and name not in found:
                    structure = _structure(die, wanted[name])
                    if structure is not None:
                        found[name] = structure
            if len(found) == len(wanted):
                break
    return found


def _structure(die: Any, wanted: Sequence[str]) -> Structure | None:
    if die.tag == "DW_TAG_typedef" and "DW_AT_type" not in die.attributes:
        return None
    kind = _resolve(die)
    if kind.tag != "DW_TAG_structure_type" or "DW_AT_byte_size" not in kind.attributes:
        return None
    members: dict[str, list[int]] = {}
    _flatten(kind, 0, "", members, frozenset(_prefixes(wanted)))
    chosen = [(name, place) for name, place in members.items() if name in wanted]
    if not chosen:
        return None
    chosen.sort(key=lambda item: (item[1][0], item[0]))
    return {"size": kind.attributes["DW_AT_byte_size"].value, "members": dict(chosen)}


def _prefixes(names: Sequence[str]) -> list[str]:
    """Return the names and all that comes before a dot in them."""
    return [name[:at] for name in names for at in range(len(name) + 1) if at == len(name) or name[at] in ".["]


def _resolve(die: Any) -> Any:
    """Follow typedefs and qualifiers to the real type."""
    while die.tag in _QUALIFIERS:
        die = die.get_DIE_from_attribute("DW_AT_type")
    return die


def _size_of(die: Any) -> int:
    die = _resolve(die)
    if die.tag == "DW_TAG_pointer_type":
        return 8
    if die.tag == "DW_TAG_array_type":
        count = 1
        for child in die.iter_children():
            if child.tag == "DW_TAG_subrange_type":
                bound, known = (child.attributes.get(f"DW_AT_{word}") for word in ("upper_bound", "count"))
                count *= known.value if known else bound.value + 1 if bound else 0
        return count * _size_of(die.get_DIE_from_attribute("DW_AT_type"))
    return int(die.attributes["DW_AT_byte_size"].value)


def _flatten(die: Any, base: int, prefix: str, out: dict[str, list[int]], of: frozenset[str]) -> None:
    """Add the members of the structure `die`, at `base`, to `out`, as far as they are in `of`."""
    for member in die.iter_children():
        if member.tag != "DW_TAG_member":
            continue
        attributes = member.attributes
        name = prefix + (attributes["DW_AT_name"].value.decode() if "DW_AT_name" in attributes else "")
        if name != prefix and name not in of:
            continue
        kind = _resolve(member.get_DIE_from_attribute("DW_AT_type"))
        location = attributes.get("DW_AT_data_member_location")
        if "DW_AT_bit_size" in attributes:
            out[name] = _bit_field(attributes, base, location, kind)
            continue
        offset = base + (location.value if location else 0)
        if name != prefix:
            out[name] = [offset, _size_of(kind)]
        if kind.tag in _AGGREGATES:
            _flatten(kind, offset, f"{name}." if name != prefix else prefix, out, of)
        elif kind.tag == "DW_TAG_array_type":
            out[f"{name}[]"] = [offset, _size_of(kind.get_DIE_from_attribute("DW_AT_type"))]


def _bit_field(attributes: Any, base: int, location: Any, kind: Any) -> list[int]:
    bits = attributes["DW_AT_bit_size"].value
    if "DW_AT_data_bit_offset" in attributes:
        at = attributes["DW_AT_data_bit_offset"].value
    else:  # up to DWARF 3, and GCC's DWARF 4: counted from the most significant bit of the unit that holds it
        unit = location.value if location else 0
        at = (unit + _size_of(kind)) * 8 - attributes["DW_AT_bit_offset"].value - bits
    return [base + at // 8, 1, at % 8, bits]
