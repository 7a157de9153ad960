"""A wrapper that asks dlsym for what it wraps and is given itself, and other calls that go round until the
stack ends.

Source: dlsym(3); glibc elf/dl-sym.c:do_sym (RTLD_DEFAULT is the caller's scope, in which a preload or the
program itself comes first).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from emu.analysis.check_ends import End
from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.analysis.frames import PLUMBING, is_user, where
from emu.analysis.why_command import explain_command
from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.elf.demangle import demangle
from emu.process.folding import repeated
from emu.rtld.asked import RTLD_DEFAULT, RTLD_NEXT
from emu.rtld.lookup import Query, peek_symbol
from emu.rtld.runtime import scopes_of
from emu.rtld.scope import Scope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_DEEP = "let it end before the stack does: a loop, a bound, or, if it does end, more stack (ulimit -s, pthread_attr_setstacksize)"
_OFTEN = 8
"""Frames of one function that make a recursion."""
_OWN_NAMES = ("malloc", "calloc", "realloc", "memalign", "free")
"""Functions that glibc exports as __libc_NAME, too."""
_OVERFLOW = "stack overflow"
_CALLED = {RTLD_DEFAULT: "RTLD_DEFAULT", RTLD_NEXT: "RTLD_NEXT"}
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
        if times < _OFTEN:
            return None
        if given is None:
            return self._endless(message, frames)
        who, name = base(given.map.display_name), given.name
        remedies = [
            f'ask dlsym(RTLD_NEXT, "{name}") in {who}: the search then begins behind {who}',
            f"ask for it by the handle of the library that has it (dlopen with RTLD_NOLOAD), not by {given.handle}",
        ]
        text = f'{message}: {function} of {who} wraps {name}, and its dlsym({given.handle}, "{name}") gives itself, so it calls itself for ever'
        return End(text, tuple(remedies)), given.place

    def _endless(self, message: str, frames: Sequence[FrameInfo]) -> tuple[End, Occasion] | None:
        """Return what to say of calls that go round: who calls whom, and what dlsym has to do with it."""
        shown = [f for f in frames if f.object != "[emu]" and f.function and f.function not in PLUMBING]
        cycle = repeated(shown)
        if _OVERFLOW not in message or not cycle:
            return None
        told = [f for f in cycle if not _is_inner(f, cycle)] or cycle  # a library's own affair
        calls = [f"{f.function} of {base(f.object)}" for f in reversed(told)]
        places = {
            f"{f.function} of {base(f.object)}": where(f).rpartition("/")[2]
            for f in cycle
            if is_user(f.object, f.function)
        }
        first = next((call for call in calls if call in places), calls[0])
        at = calls.index(first)
        named = [
            f"{call} ({places[call]})" if call in places else call for call in (*calls[at:], *calls[:at])
        ]
        round_ = ", which calls ".join([*named, first]) if len(named) > 1 else f"{named[0]} calls itself"
        text = f"{message}: calls that go round until the stack ends: {round_ if len(named) == 1 else round_.replace(', which', '', 1)}"
        wrapper = next((f for f in cycle if is_user(f.object, f.function)), None)
        if wrapper is None or not any(f.function in ("dlsym", "dlvsym") for f in cycle):
            return End(text, (_DEEP,)), NOWHERE
        return self._asks_in_vain(text, wrapper)

    def _asks_in_vain(self, text: str, wrapper: FrameInfo) -> tuple[End, Occasion]:
        """Return the end of an allocator that asks dlsym, which allocates."""
        caller = next((m for m in self._notes.maps() if m.display_name == wrapper.object), None)
        nothing = self.found_nothing(caller) if caller is not None else None
        who, function = base(wrapper.object), wrapper.function
        remedies = [
            f"let {function} return NULL while dlsym runs, which does without: a flag (static __thread) tells"
        ]
        if function in _OWN_NAMES:
            remedies.append(f"call glibc's own name for it, __libc_{function}, which needs no dlsym")
        if nothing is None:
            return End(
                f"{text}: dlsym itself allocates, and {who} takes {function} over", tuple(remedies)
            ), NOWHERE
        symbol, handle, place = nothing
        explain = explain_command(self._notes.process.config, symbol)
        why = f'dlsym({handle}, "{symbol}") finds nothing, and allocates the message for dlerror by {function}, which {who} takes over'
        asks = (
            f"ask for a name that is there: {explain} tells what was searched, and what has nearly that name"
        )
        return End(f"{text}: {why}", (asks, *remedies)), place

    def _asked(self) -> None:
        """A dlsym begins: ask who has the name, as it will."""
        notes, rtld = self._notes, self._notes.process.rtld
        handle, asking = notes.argument(0), notes.return_address() - 1
        call = asking, notes.argument(1)
        if rtld is None or call in self._seen or len(self._seen) >= _MOST:
            return
        self._seen.add(call)
        caller = rtld.find_map(asking)
        if caller is None:
            return
        of = caller if handle in _CALLED else rtld.by_address.get(handle)
        if of is None:
            return
        try:
            name = rtld.memory.read_cstr(notes.argument(1))
            scopes = [Scope(of.searchlist)]
            if handle in _CALLED:
                scopes = scopes_of(rtld, caller)
            skip = caller if handle == RTLD_NEXT else None
            found = peek_symbol(rtld, Query(name, of, skip=skip), scopes)
        except EmuError:
            return  # dlsym itself will say what is wrong
        written = name.decode(errors="replace")
        called = _CALLED.get(handle, f"the handle of {base(of.display_name)}")
        if found is None:
            self._nothing[caller] = written, called, notes.here()
            return
        if found.map is not caller or not found.address <= asking < found.address + found.size:
            return
        self._given.setdefault(demangle(written), _Given(caller, written, called, notes.here()))


def _is_inner(frame: FrameInfo, cycle: Sequence[FrameInfo]) -> bool:
    """Whether a frame of a run-time library is called by another of the same: only the entry counts."""
    at = next(number for number, one in enumerate(cycle) if one is frame)
    outer = cycle[(at + 1) % len(cycle)]
    return not is_user(frame.object, frame.function) and outer.object == frame.object
