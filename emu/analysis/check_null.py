"""What a call through a null pointer was to reach: a weak reference that nothing defines, or what a dlsym did
not find.

Source: gABI, "Symbol Table" (an undefined weak symbol is zero); psABI 3.2.1, 5.2.3; dlsym(3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_ends import End
from emu.analysis.check_notes import Notes, Occasion, base
from emu.analysis.null_jump import null_jump
from emu.analysis.why_command import explain_command
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.analysis.check_wrappers import Wrappers
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_NULL = "jump to 0x0 "


def null_call(
    notes: Notes, message: str, frames: Sequence[FrameInfo], asked: Wrappers
) -> tuple[End, Occasion | None] | None:
    """Return what to say of a jump to address 0, with the place of the dlsym that is to blame, if it is."""
    if _NULL not in message or len(frames) < 2:
        return None
    call = null_jump(notes.process, frames[1].pc)
    symbols = notes.process.symbols
    place = symbols.place((call.after if call is not None else frames[1].pc) - 1)
    if place is None:
        return None
    caller = next((m for m in notes.maps() if m.display_name == place[0]), None)
    who = base(place[0])
    if call is not None:
        slot = call.slot
        name = _undefined_weak(notes, caller, slot) if caller is not None and slot is not None else ""
        if name:
            return _weak(message, who, name), None
        if slot is None or caller is None and symbols.section_at(slot).startswith(".got"):
            name = symbols.called(call.after)
            line = symbols.source(call.after - 1).rpartition("/")[2]
            return _left_undefined(message, who, name, "" if name or not line else f" at {line}"), None
    nothing = asked.found_nothing(caller) if caller is not None else None
    if nothing is None:
        return None
    symbol, handle, where = nothing
    explain = explain_command(notes.process.config, symbol)
    return End(
        f'{message}: the last that {who} has asked dlsym for in vain is "{symbol}" (by {handle}): that gave NULL',
        (
            "look at what dlsym returns, and at dlerror, before the call",
            f"{explain} tells what was searched, and what has nearly that name",
        ),
    ), where


def _weak(message: str, who: str, name: str) -> End:
    return End(
        f"{message}: {who} calls {name}, a weak reference that nothing defines: it is 0",
        (
            f"link {who} (or the program) with the library that defines {name}, with -Wl,--no-as-needed: a weak reference alone makes no need",
            f"ask before the call: if ({name.partition('(')[0]})",
        ),
    )


def _left_undefined(message: str, who: str, name: str, place: str) -> End:
    """Return the end of a program whose link editor has put 0 into the code."""
    plain = name.partition("(")[0]
    return End(
        f"{message}: {who} calls {name or 'a function'}{place}, which nothing defined when {who} was linked (a weak reference): it is 0 for good",
        (
            f"link {who} with the archive that defines {name or 'it'}, and with -Wl,-u,{plain or 'NAME'} or -Wl,--whole-archive: a weak reference"
            " alone takes no member out of an archive",
            f"ask before the call: if ({plain or 'NAME'})",
            *(() if name else (f"compile {who} with -g -O1 to have the function's name here",)),
        ),
    )


def _undefined_weak(notes: Notes, map_: LinkMap, slot: int) -> str:
    """Return the undefined weak symbol that a slot of an object is for; empty if it is for something else."""
    for tag in (c.DT_RELA, c.DT_JMPREL):
        for offset, info, _ in iter_rela(map_.table(notes.process.arena, tag), map_.display_name):
            if map_.addr + offset == slot and info >> 32:
                entry = map_.symtab.entry(info >> 32)
                if entry.bind == c.STB_WEAK and not entry.defined:
                    return demangle(map_.symtab.symbol_name(info >> 32).decode(errors="replace"))
    return ""
