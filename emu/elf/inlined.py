"""Which functions are inlined at an address: DW_TAG_inlined_subroutine entries, innermost first.

A unit's entries are passed over once, without pyelftools, to find where its functions and their scopes are:
pyelftools takes 20 us an entry, and a C++ unit has ten thousand. It then reads the one function that covers
the address.

Source: DWARF 5 3.3.8 (inlined subroutines), 7.5.2 (entries), 7.5.6 (form encodings).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf.units import die_ranges

if TYPE_CHECKING:
    from emu.elf.units import Units

_SIZES = {
    "addr": 8, "data1": 1, "data2": 2, "data4": 4, "data8": 8, "data16": 16, "flag": 1, "ref1": 1, "ref2": 2, "ref4": 4,
    "ref8": 8, "flag_present": 0, "implicit_const": 0, "ref_sig8": 8, "ref_sup4": 4, "ref_sup8": 8, "strx1": 1, "strx2": 2,
    "strx3": 3, "strx4": 4, "addrx1": 1, "addrx2": 2, "addrx3": 3, "addrx4": 4,
}  # fmt: skip
_OFFSETS = {"strp", "line_strp", "sec_offset", "ref_addr", "strp_sup", "GNU_ref_alt", "GNU_strp_alt"}
_LEBS = {
    "udata",
    "sdata",
    "ref_udata",
    "strx",
    "addrx",
    "loclistx",
    "rnglistx",
    "GNU_addr_index",
    "GNU_str_index",
}
_BLOCKS = {"block1": 1, "block2": 2, "block4": 4}
_LEB, _STRING, _BLOCK = (
    -1,
    -2,
    -3,
)  # steps that depend on the content; below -3: a block whose length has -3 - n bytes
_SCOPES = frozenset(f"DW_TAG_{name}_type" for name in ("structure", "class", "union", "interface")) | {
    "DW_TAG_namespace"
}
_CALL_SITES = {
    "DW_TAG_call_site": ("DW_AT_call_return_pc", "DW_AT_call_origin"),
    "DW_TAG_GNU_call_site": ("DW_AT_low_pc", "DW_AT_abstract_origin"),
}
"""Where a call comes back to, and what it is of."""
_HOPS = 8
_NESTING = 64


class Inlined(NamedTuple):
    """A function that is inlined: its linkage name, or its own, in its scopes, if it has none;
    and the file and line of its call.
    """

    name: str
    file: str
    line: int


class _Plan(NamedTuple):
    """How to pass over the entries of one abbreviation: bytes, or (negative) what to do;
    what the entry is.
    """

    steps: tuple[int, ...]
    has_children: bool
    function: bool
    scope: bool


class _Unit(NamedTuple):
    """What a unit has: ranges of its functions (start, end, entry) by start, and
    its scopes (entry, end of its children).
    """

    functions: list[tuple[int, int, int]]
    scopes: list[tuple[int, int]]


class InlinedFunctions:
    """The inlined functions of one object. Raises what pyelftools raises for malformed content."""

    def __init__(self, units: Units, path: str) -> None:
        self._units, self._path = units, path
        self._read: dict[int, _Unit] = {}

    def at(self, vaddr: int, offset: int) -> list[Inlined]:
        """Return what is inlined at `vaddr`, innermost first; `offset` is its unit."""
        known = self._read.get(offset)
        if known is None:
            known = self._read[offset] = self._scan(offset)
        unit = self._units.info.get_CU_at(offset)
        found: list[Inlined] = []
        for die in self._path_to(unit, known, vaddr):
            if die.tag == "DW_TAG_inlined_subroutine":
                attributes = die.attributes
                number = attributes["DW_AT_call_file"].value if "DW_AT_call_file" in attributes else 0
                line = attributes["DW_AT_call_line"].value if "DW_AT_call_line" in attributes else 0
                file = self._units.files(offset)(number) if number else ""
                found.insert(0, Inlined(self._name(die), file, line))
        return found

    def called(self, back: int, offset: int) -> str:
        """Return the function that the call before `back` is of, as declared; empty where nothing tells.

        Source: DWARF 5 3.4.1 (call site entries); GCC's DW_TAG_GNU_call_site before it.
        """
        if offset not in self._read:
            self._read[offset] = self._scan(offset)
        unit = self._units.info.get_CU_at(offset)
        for die in self._path_to(unit, self._read[offset], back - 1):
            for child in _children(unit, die):
                at, of = _CALL_SITES.get(child.tag, ("", ""))
                if of in child.attributes and at in child.attributes and child.attributes[at].value == back:
                    return self._name(child.get_DIE_from_attribute(of))
        return ""

    def function(self, vaddr: int, offset: int) -> Any:
        """Return the entry of the function at `vaddr`, None if the unit has none there."""
        if offset not in self._read:
            self._read[offset] = self._scan(offset)
        unit = self._units.info.get_CU_at(offset)
        return next(self._path_to(unit, self._read[offset], vaddr), None)

    def _path_to(self, unit: Any, known: _Unit, vaddr: int) -> Iterator[Any]:
        """Yield the function at `vaddr` and the blocks and inlined functions in it
        that cover the address, outermost first.
        """
        at = bisect_right(known.functions, (vaddr, 1 << 64, 0)) - 1
        if at < 0 or vaddr >= known.functions[at][1]:
            return
        die = unit.get_DIE_from_refaddr(known.functions[at][2])
        for _ in range(_NESTING):
            yield die
            for child in _children(unit, die):
                inside = child.tag in (
                    "DW_TAG_inlined_subroutine",
                    "DW_TAG_lexical_block",
                    "DW_TAG_try_block",
                    "DW_TAG_catch_block",
                )
                if inside and any(a <= vaddr < b for a, b in die_ranges(self._units.info, child)):
                    die = child
                    break
            else:
                return

    def _name(self, die: Any) -> str:
        """Return the name that the entry or those that it comes from have."""
        plain = ""
        for _ in range(_HOPS):
            attributes = die.attributes
            for key in ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name"):
                if key in attributes:
                    return _text(attributes[key].value)
            origin = next(
                (key for key in ("DW_AT_abstract_origin", "DW_AT_specification") if key in attributes), None
            )
            if "DW_AT_name" in attributes and not plain:
                plain = _text(attributes["DW_AT_name"].value)
            if origin is None:
                break
            die = die.get_DIE_from_attribute(origin)
        return "::".join([*self._scope_names(die), plain]) if plain else ""

    def _scope_names(self, die: Any) -> Iterator[str]:
        offset = die.cu.cu_offset
        if offset not in self._read:
            self._read[offset] = self._scan(offset)
        for start, end in self._read[offset].scopes:
            if start < die.offset < end:
                scope = die.cu.get_DIE_from_refaddr(start)
                name = scope.attributes.get("DW_AT_name")
                if name is not None:
                    yield _text(name.value)
                elif scope.tag == "DW_TAG_namespace":
                    yield "(anonymous namespace)"

    # -- one pass over a unit --------------------------------------------------------------------------------

    def _scan(self, offset: int) -> _Unit:
        info = self._units.info
        unit = info.get_CU_at(offset)
        data = info.debug_info_sec.stream.getvalue()
        at, end = unit.cu_die_offset, min(offset + unit.size, len(data))
        plans: dict[int, _Plan] = {}
        functions: list[int] = []
        scopes: list[tuple[int, int]] = []
        open_: list[int] = []
        while at < end:
            start = at
            code, at = _leb(data, at)
            if not code:
                if open_:
                    scope = open_.pop()
                    if scope >= 0:
                        scopes.append((scope, start))
                continue
            plan = plans.get(code)
            if plan is None:
                plan = plans[code] = self._plan(unit, code)
            for step in plan.steps:
                if step >= 0:
                    at += step
                elif step == _LEB:
                    while data[at] & 0x80:
                        at += 1
                    at += 1
                elif step == _STRING:
                    at = data.index(0, at) + 1
                elif step == _BLOCK:
                    size, at = _leb(data, at)
                    at += size
                else:
                    size = _BLOCK - step
                    at += size + int.from_bytes(data[at : at + size], "little")
            if plan.has_children:
                open_.append(start if plan.scope else -1)
            if plan.function:
                functions.append(start)
        ranges = [
            (low, high, at)
            for at in functions
            for low, high in die_ranges(info, unit.get_DIE_from_refaddr(at))
        ]
        return _Unit(sorted(ranges), sorted(scopes))

    def _plan(self, unit: Any, code: int) -> _Plan:
        declaration = unit.get_abbrev_table().get_abbrev(code)
        wide = unit.dwarf_format() // 8
        steps: list[int] = []
        names = set()
        for name, form in declaration.iter_attr_specs():
            names.add(name)
            form = form.removeprefix("DW_FORM_")
            if form in _SIZES or form in _OFFSETS:
                size = _SIZES.get(form, wide)
                if steps and steps[-1] >= 0:
                    steps[-1] += size
                else:
                    steps.append(size)
            elif form in _LEBS:
                steps.append(_LEB)
            elif form in ("block", "exprloc"):
                steps.append(_BLOCK)
            elif form in _BLOCKS:
                steps.append(_BLOCK - _BLOCKS[form])
            elif form == "string":
                steps.append(_STRING)
            else:
                raise ElfError(self._path, f"DW_FORM_{form} in .debug_info")
        tag = declaration["tag"]
        has_code = "DW_AT_low_pc" in names or "DW_AT_ranges" in names
        function = tag == "DW_TAG_subprogram" and has_code
        return _Plan(tuple(steps), declaration.has_children(), function, tag in _SCOPES)


def _children(unit: Any, die: Any) -> Iterator[Any]:
    """Yield an entry's children.

    Each lies behind the one before, whatever DW_AT_sibling says: pyelftools would follow it in a circle.
    """
    at = die.offset + die.size
    depth = 0
    while die.has_children:
        child = unit.get_DIE_from_refaddr(at)
        after = at + child.size
        if child.is_null():
            depth -= 1
            if depth < 0:
                return
        else:
            if depth == 0:
                yield child
            if child.has_children:
                sibling = child.attributes.get("DW_AT_sibling")
                to = (
                    sibling.value + unit.cu_offset
                    if sibling is not None and sibling.form != "DW_FORM_ref_addr"
                    else 0
                )
                if to > after:
                    after = to
                else:
                    depth += 1
        at = after


def _leb(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while shift < 64:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at + 1
    raise ValueError("LEB128 number with more than 64 bits")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
