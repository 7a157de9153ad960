"""A fault in an IFUNC resolver that runs while its object is being relocated:
what it called or read was not there yet.

Source: psABI 4.4.1 (R_X86_64_IRELATIVE); glibc elf/dynamic-link.h, elf/do-rel.h: .rela.dyn comes before
.rela.plt, IRELATIVE last in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela, reloc_name
from emu.machine import regs

if TYPE_CHECKING:
    from emu.process.process import Process
    from emu.rtld.link_map import LinkMap


class ResolverFault(NamedTuple):
    """What went wrong, and what would help; `objects` are those concerned."""

    text: str
    remedies: tuple[str, ...]
    objects: tuple[str, ...]


def resolver_fault(process: Process, access: str, address: int) -> ResolverFault | None:
    """Return the story of a fault (its access and address) in an IFUNC resolver that relocation runs;
    None for any other fault.
    """
    rtld = process.rtld
    if rtld is None or rtld.resolving is None:
        return None
    map_, kind, resolver = rtld.resolving
    home = rtld.find_map(resolver) or map_
    name = process.symbols.describe(resolver)
    where = f"in the IFUNC resolver {name} of {_base(home)}, run for {reloc_name(kind)}{'' if home is map_ else f' of {_base(map_)}'}"
    slot = _slot_called(process, address) if access == "execute" else None
    if slot is None:
        later = [m for m in (home, _user(process)) if m is not None and not m.relocated]
        if not later:
            return None
        text = f"{where}: {_base(later[0])} is not relocated yet, so what its code finds through its GOT is not there"
        return ResolverFault(text, _remedies(map_, later[0]), _names(map_, home))
    user, symbol, slot_kind = slot
    what = "a PLT slot" if slot_kind == c.R_X86_64_JUMP_SLOT else "a GOT slot"
    order = "" if user is not map_ else " (.rela.plt comes after .rela.dyn)"
    if user is not map_:
        order = f" ({_base(user)} is relocated after {_base(map_)})"
    return ResolverFault(
        f"{where}: it calls {symbol} through {what} that is not relocated yet{order}",
        _remedies(map_, user),
        _names(map_, home),
    )


def _remedies(map_: LinkMap, user: LinkMap) -> tuple[str, ...]:
    if user is map_:
        return (
            f"link {_base(map_)} with -z now",
            "call nothing in the resolver that goes through a PLT or GOT slot",
        )
    return (
        f"link {_base(map_)} with {_base(user)}, so that it is relocated first",
        "call nothing in the resolver that goes through a PLT or GOT slot",
    )


def _slot_called(process: Process, target: int) -> tuple[LinkMap, str, int] | None:
    """Return the object, the symbol and the relocation type of the unrelocated slot
    by whose content the CPU has jumped to `target`.
    """
    user = _user(process)
    if user is None or user.relocated:
        return None
    arena = process.arena
    for tag in (c.DT_JMPREL, c.DT_RELA):
        for offset, info, _ in iter_rela(user.table(arena, tag), user.display_name):
            if info & 0xFFFFFFFF in (c.R_X86_64_JUMP_SLOT, c.R_X86_64_GLOB_DAT):
                try:
                    content = arena.read_u64(user.addr + offset)
                except MemoryFault:
                    continue
                if content == target:
                    name = user.symtab.symbol_name(info >> 32).decode(errors="replace")
                    return user, demangle(name), info & 0xFFFFFFFF
    return None


def _user(process: Process) -> LinkMap | None:
    """Return the object whose code was the last to run:
    that of the program counter, or of the return address after a jump to nowhere.
    """
    rtld = process.rtld
    assert rtld is not None
    here = rtld.find_map(process.cpu.get(regs.RIP))
    if here is not None:
        return here
    try:
        return rtld.find_map(process.arena.read_u64(process.cpu.get(regs.RSP)))
    except MemoryFault:
        return None


def _base(map_: LinkMap) -> str:
    return map_.display_name.rpartition("/")[2] or map_.display_name


def _names(*maps: LinkMap) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map_.display_name for map_ in maps))
