"""A wrapper that asks dlsym for what it wraps and is given itself: it then calls itself until the stack ends.

Source: dlsym(3); glibc elf/dl-sym.c:do_sym (RTLD_DEFAULT is the caller's scope, in which a preload or the
program itself comes first).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.analysis.check_ends import End
from emu.analysis.check_notes import Notes, Occasion, base
from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.elf.demangle import demangle
from emu.rtld.asked import RTLD_DEFAULT, RTLD_NEXT
from emu.rtld.lookup import Query, peek_symbol
from emu.rtld.runtime import scopes_of
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_OFTEN = 8
"""Frames of one function that make a recursion."""
_MOST = 4096
"""Calls of dlsym that are looked at, each place with each name once."""


class _Given(NamedTuple):
    """A dlsym whose answer was the function that called it."""

    map: LinkMap
    name: str
    handle: str
    place: Occasion


class Wrappers:
    """Watches dlsym and dlvsym; what is seen counts only where the run dies of it, since a function may ask
    who it is.
    """

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._given: dict[str, _Given] = {}
        self._nothing: dict[LinkMap, tuple[str, str, Occasion]] = {}
        self._seen: set[tuple[int, int]] = set()

    def linked(self) -> None:
        """The program's libc is linked, and has not run."""
        for name in (b"dlsym", b"dlvsym"):
            self._notes.watch_libc(name, self._asked)

    def found_nothing(self, caller: LinkMap) -> tuple[str, str, Occasion] | None:
        """Return the last name that dlsym has not found for an object, with the handle and the place."""
        return self._nothing.get(caller)

    def died(self, message: str, frames: Sequence[FrameInfo]) -> tuple[End, Occasion] | None:
        """Return what to say of a death in a recursion of a wrapper, and where it has asked for itself."""
        named = Counter(f.function for f in frames if f.function)
        function, times = named.most_common(1)[0] if named else ("", 0)
        given = self._given.get(function)
        if given is None or times < _OFTEN:
            return None
        who, name = base(given.map.display_name), given.name
        remedies = [
            f'ask dlsym(RTLD_NEXT, "{name}") in {who}: the search then begins behind {who}',
            f"ask for it by the handle of the library that has it (dlopen with RTLD_NOLOAD), not by {given.handle}",
        ]
        text = f'{message}: {function} of {who} wraps {name}, and its dlsym({given.handle}, "{name}") gives itself, so it calls itself for ever'
        return End(text, tuple(remedies)), given.place

    def _asked(self) -> None:
        """A dlsym begins: ask who has the name, as it will."""
        notes, rtld = self._notes, self._notes.process.rtld
        handle, asking = notes.argument(0), notes.return_address() - 1
        call = asking, notes.argument(1)
        if rtld is None or handle == RTLD_NEXT or call in self._seen or len(self._seen) >= _MOST:
            return
        self._seen.add(call)
        caller = rtld.find_map(asking)
        if caller is None:
            return
        of = caller if handle == RTLD_DEFAULT else rtld.by_address.get(handle)
        if of is None:
            return
        try:
            name = rtld.memory.read_cstr(notes.argument(1))
            scopes = scopes_of(rtld, caller) if handle == RTLD_DEFAULT else [Scope(of.searchlist)]
            found = peek_symbol(rtld, Query(name, of), scopes)
        except EmuError:
            return  # dlsym itself will say what is wrong
        written = name.decode(errors="replace")
        called = "RTLD_DEFAULT" if handle == RTLD_DEFAULT else f"the handle of {base(of.display_name)}"
        if found is None:
            self._nothing[caller] = written, called, notes.here()
            return
        if found.map is not caller or not found.address <= asking < found.address + found.size:
            return
        self._given.setdefault(demangle(written), _Given(caller, written, called, notes.here()))
