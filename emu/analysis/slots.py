"""The places that relocations by a symbol fill, and what is in them now.

Source: psABI 4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.answer import SlotAnswer
from emu.analysis.data import Address
from emu.core.errors import ElfError, MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.relocations import iter_rela, reloc_name
from emu.rtld.found import Found, symbol_of
from emu.rtld.runtime import reference_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.facts import Facts
    from emu.rtld.link_map import LinkMap

_M64 = (1 << 64) - 1
_TLS = frozenset((c.R_X86_64_DTPMOD64, c.R_X86_64_DTPOFF64, c.R_X86_64_TPOFF64, c.R_X86_64_TLSDESC))


class SlotUse(NamedTuple):
    """A relocation by a symbol of the name: `symbol` is its index in the object's
    table, `offset` a link-time address.
    """

    offset: int
    kind: int
    symbol: int
    addend: int


def uses(facts: Facts, map_: LinkMap) -> list[SlotUse]:
    """Return an object's relocations by the symbol, in table order."""
    indexes = facts.indexes(map_)
    found: dict[SlotUse, None] = {}
    if indexes:
        for tag in (c.DT_RELA, c.DT_JMPREL):
            for offset, info, addend in iter_rela(map_.table(facts.rtld.memory, tag), map_.display_name):
                if info >> 32 in indexes:
                    found[SlotUse(offset, info & 0xFFFFFFFF, info >> 32, addend)] = None
    return list(found)


def describe(facts: Facts, map_: LinkMap, use: SlotUse, found: Found | None) -> SlotAnswer:
    """Return the slot of a relocation, whose look-up gives `found`, as data."""
    section = facts.symbols.section(map_, use.offset)
    if use.kind == c.R_X86_64_COPY:
        kind = "copy"
    elif use.kind in _TLS:
        kind = "tls"
    elif use.kind == c.R_X86_64_JUMP_SLOT:
        kind = "plt"
    else:
        kind = "got" if use.kind == c.R_X86_64_GLOB_DAT or section.startswith(".got") else "data"
    at = map_.addr + use.offset
    value = _value(facts, map_, use)
    if not map_.relocated:
        state, target = "unrelocated", ""
    elif _is_lazy(facts, map_, use, value):
        state, target = "lazy", "the first call will bind it"
    else:
        state, target = _content(facts, map_, use, value, found)
    version = reference_version(map_, use.symbol)
    asked = version.name.decode(errors="replace") if version is not None else ""
    return SlotAnswer(
        map_.display_name, map_.ns, asked, reloc_name(use.kind), kind, section, Address(use.offset), Address(at), state, Address(value), target,
    )  # fmt: skip


def _value(facts: Facts, map_: LinkMap, use: SlotUse) -> int:
    """Return the content of a slot; the address for a COPY, whose content is data;
    of a TLS descriptor the second word.
    """
    at = map_.addr + use.offset
    if use.kind == c.R_X86_64_COPY:
        return at
    if use.kind == c.R_X86_64_TLSDESC:
        at += 8
    size = 4 if use.kind in (c.R_X86_64_32, c.R_X86_64_PC32, c.R_X86_64_SIZE32) else 8
    try:
        return int.from_bytes(facts.rtld.memory.read(at, size), "little")
    except MemoryFault:
        raise ElfError(
            map_.display_name, f"relocation offset {use.offset:#x} lies outside the object"
        ) from None


def _is_lazy(facts: Facts, map_: LinkMap, use: SlotUse, value: int) -> bool:
    """Whether a PLT slot still holds what the linker put there: the way to the resolver."""
    if use.kind != c.R_X86_64_JUMP_SLOT:
        return False
    for phdr in map_.phdrs:
        if phdr.type == c.PT_LOAD and phdr.vaddr <= use.offset <= phdr.vaddr + phdr.filesz - 8:
            file = facts.process.kernel.fs.look_at(map_.path)
            word = int.from_bytes(file.pread(8, phdr.offset + use.offset - phdr.vaddr), "little")
            return word != 0 and value == word + map_.addr & _M64
    return False


def _content(facts: Facts, map_: LinkMap, use: SlotUse, value: int, found: Found | None) -> tuple[str, str]:
    """Return state and meaning of what a filled slot holds."""
    kind, rtld = use.kind, facts.rtld
    symbol = found if found is not None else symbol_of(map_, 0)
    if found is None and kind not in _TLS:
        return ("null", "nothing") if value in (0, use.addend & _M64) else ("changed", where(facts, value))
    match kind:
        case c.R_X86_64_COPY:
            assert found is not None
            size = min(symbol.size, symbol_of(map_, use.symbol).size)
            return "bound", f"a copy of {size} bytes of {symbol.map.display_name}+{symbol.value:#x}"
        case c.R_X86_64_DTPMOD64:
            owner = next((m for m in facts.objects() if m.tls_modid == value and value), None)
            expected = found.map.tls_modid if found is not None else 0
            text = f"TLS module {value}" + (f" ({owner.display_name})" if owner is not None else "")
            return ("bound" if value == expected else "changed"), text
        case c.R_X86_64_DTPOFF64:
            same = found is None or value == symbol.value + use.addend & _M64
            return ("bound" if same else "changed"), f"offset {value:#x} in the TLS block"
        case c.R_X86_64_TPOFF64:
            if found is None:
                return "null", "nothing"
            below = (1 << 64) - value if value >> 63 else -value
            same = value == symbol.value + use.addend - found.map.tls_offset & _M64
            return (
                "bound" if same else "changed"
            ), f"fs:{-below:#x}: offset {symbol.value:#x} in the TLS block of {symbol.map.display_name}"
        case c.R_X86_64_TLSDESC:
            entry = rtld.memory.read_u64(map_.addr + use.offset)
            ways = {
                rtld.entries.tlsdesc_return: "static: the offset from the thread pointer is known",
                rtld.entries.tlsdesc_dynamic: "dynamic: found through the DTV",
                rtld.entries.tlsdesc_undefweak: "an undefined weak symbol",
            }
            return ("bound", ways[entry]) if entry in ways else ("changed", where(facts, entry))
        case c.R_X86_64_SIZE64 | c.R_X86_64_SIZE32:
            return ("bound" if value == symbol.size + use.addend else "changed"), f"the size, {value} bytes"
    assert found is not None
    if kind == c.R_X86_64_PC32:
        value = map_.addr + use.offset + value - (value >> 31 << 32) & _M64
    text = where(facts, value - use.addend & _M64 if kind == c.R_X86_64_64 else value)
    if symbol.is_ifunc:
        return "bound", text
    addend = 0 if kind in (c.R_X86_64_GLOB_DAT, c.R_X86_64_JUMP_SLOT) else use.addend
    return ("bound" if value == found.address + addend & _M64 else "changed"), text


def where(facts: Facts, address: int) -> str:
    """Return object+offset of an address, with function and line if it is code; "nothing" for 0."""
    if not address:
        return "nothing"
    map_ = facts.rtld.find_map(address)
    if map_ is not None and (section := facts.symbols.section(map_, address - map_.addr)).startswith(".plt"):
        return f"{map_.display_name}+{address - map_.addr:#x} in {section}"
    if map_ is None or any(
        p.type == c.PT_LOAD and p.flags & c.PF_X and 0 <= address - map_.addr - p.vaddr < p.memsz
        for p in map_.phdrs
    ):
        return facts.symbols.where(address)
    return f"{map_.display_name}+{address - map_.addr:#x}"


def implementation(facts: Facts, slots: list[SlotAnswer]) -> Iterator[str]:
    """Yield what an IFUNC's resolver picked, as the bound slots hold it, each once."""
    seen: set[int] = set()
    for slot in slots:
        if slot.state == "bound" and slot.kind in ("plt", "got") and slot.value not in seen:
            seen.add(slot.value)
            yield where(facts, slot.value)
