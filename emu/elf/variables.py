"""Which variables are declared atomic, from DWARF.

Source: DWARF 5 4.1 (data objects), 5.3 (qualified types), 7.7.1 (DW_OP_addr).
"""

from __future__ import annotations

from typing import Any

_ADDR = 0x03
_HOPS = 32
"""Types in a row that one variable's type is made of; a file that has more is made to be."""
_INSIDE = ("DW_TAG_namespace", "DW_TAG_subprogram", "DW_TAG_lexical_block")


def atomic_variables(dwarf: Any) -> list[tuple[int, int]]:
    """Return (link-time address, size in bytes, at least 1) of each static variable of an atomic type.

    Raises what pyelftools raises.
    """
    found: list[tuple[int, int]] = []
    for unit in dwarf.iter_CUs():
        todo = [unit.get_top_DIE()]
        while todo:
            for die in todo.pop().iter_children():
                if die.tag == "DW_TAG_variable":
                    address = _address(die, dwarf.config.little_endian)
                    size = _atomic_size(die) if address is not None else 0
                    if address is not None and size:
                        found.append((address, size))
                elif die.tag in _INSIDE:
                    todo.append(die)
    return found


def _address(die: Any, little: bool) -> int | None:
    location = die.attributes.get("DW_AT_location")
    if (
        location is None
        or location.form != "DW_FORM_exprloc"
        or len(location.value) != 9
        or location.value[0] != _ADDR
    ):
        return None
    return int.from_bytes(bytes(location.value[1:]), "little" if little else "big")


def _atomic_size(die: Any) -> int:
    """Return the size of a variable's type if that is atomic, else 0."""
    atomic = False
    for _ in range(_HOPS):
        if "DW_AT_specification" in die.attributes and "DW_AT_type" not in die.attributes:
            die = die.get_DIE_from_attribute("DW_AT_specification")
            continue
        name = die.attributes.get("DW_AT_name")
        text = name.value if name is not None else b""
        atomic |= die.tag == "DW_TAG_atomic_type"
        if die.tag in ("DW_TAG_structure_type", "DW_TAG_class_type"):
            atomic |= text.startswith((b"atomic<", b"atomic_", b"__atomic_"))
        if "DW_AT_type" not in die.attributes:
            break
        die = die.get_DIE_from_attribute("DW_AT_type")
    size = die.attributes.get("DW_AT_byte_size")
    return max(int(size.value) if size is not None and isinstance(size.value, int) else 1, 1) if atomic else 0
