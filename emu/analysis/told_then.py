"""Look-ups told when they were made: each dlsym of a symbol, and each reference to it
that nothing satisfied in an open that failed.

At the end of the run their objects may have gone, or things may have changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from emu.analysis.explain import ToldLookUp, explain_asked, explain_reference
from emu.analysis.frames import is_user, where
from emu.analysis.names import means, parse
from emu.analysis.opens.not_found import near_names
from emu.core import dl_events as dl
from emu.core.events import Binding
from emu.elf import constants as c

if TYPE_CHECKING:
    from emu.analysis.answer import Explanation
    from emu.core.events import Record
    from emu.process import Process
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap

_CALLERS = 4
_MOST = 32
"""Look-ups that are told; a program may ask for one name again and again."""


class Then:
    """Watches one process from before its `load` on for look-ups of `symbol`, a name as people write it."""

    def __init__(self, process: Process, symbol: str, version: str | None) -> None:
        self.process = process
        self.word, in_word = (symbol, None) if version is not None else parse(symbol)
        self.version = version if version is not None else in_word
        self._told: list[Explanation] = []
        self._symbol = ""
        self._origins: list[LinkMap] = []
        self._opening: dict[int, list[dl.OpenRequested]] = {}
        process.bus.subscribe(self._take, ("bindings", "dl"))

    def answer(self) -> ToldLookUp:
        """Return them, but for references of objects that are still there: those can be asked about now."""
        rtld = self.process.rtld
        there = {m for ns in rtld.namespaces for m in ns.maps} if rtld is not None else set()
        pairs = zip(self._told, self._origins, strict=True)
        left = tuple(one for one, map_ in pairs if one.reference.kind == "dlsym" or map_ not in there)
        return ToldLookUp(self._symbol, left)

    def _take(self, record: Record) -> None:
        event = record.event
        if isinstance(event, dl.OpenRequested):
            self._opening.setdefault(record.task, []).append(event)
        elif isinstance(event, (dl.Opened, dl.OpenFailed)):
            if opening := self._opening.get(record.task):
                opening.pop()
        elif isinstance(event, Binding) and len(self._told) < _MOST and means(self.word, event.symbol):
            by_dlsym = event.relocation == "dlsym"
            if self.version in (None, event.version) and (by_dlsym or self._symbol in ("", event.symbol)):
                self._symbol = self._symbol or event.symbol
                self._bound(record.task, event)

    def _bound(self, task: int, event: Binding) -> None:
        rtld = self.process.rtld
        if rtld is None or not rtld.started:
            return
        if rtld.asked is not None:
            one = explain_asked(self.process, rtld, rtld.asked, self._when("", task))
            if one.winner is None:
                near = near_names(self.process, rtld, rtld.asked)
                one = replace(one, remarks=(*one.remarks, *near))
            if one not in self._told:
                self._add(one, rtld.asked.map)
            return
        if event.target:
            return
        map_ = rtld.find_map(event.slot)
        if map_ is None:
            return
        name = event.symbol.encode()
        for index in range(1, map_.symtab.count):
            fields = map_.symtab.entry(index)
            if fields.bind != c.STB_WEAK and map_.symtab.strings.holds(name + b"\0", fields.name):
                for one in explain_reference(self.process, rtld, map_, index):
                    if one.winner is None:
                        self._add(replace(one, then=self._when(event.relocation, task)), map_)

    def _add(self, one: Explanation, map_: LinkMap) -> None:
        self._told.append(one)
        self._origins.append(map_)

    def _when(self, relocation: str, task: int) -> str:
        """Return at which moment this is."""
        opening = self._opening.get(task)
        if relocation and opening:
            asked = opening[-1]
            return f'when it was bound ({relocation}), in dlopen("{asked.file}", {asked.flags}) by {asked.caller}, which failed for want of it'
        frames = [f for f in self.process.backtrace() if is_user(f.object, f.function) and not f.inlined]
        if relocation:
            return f"when it was first called, {_place(frames[0])}" if frames else "when it was first called"
        callers = ", ".join(_place(frame) for frame in frames[1:_CALLERS])
        return f"as things were then; called by {callers}" if callers else "as things were then"


def _place(frame: FrameInfo) -> str:
    """Return a frame as function (file:line)."""
    name = frame.function or f"{frame.object}+{frame.offset:#x}"
    return f"{name} ({where(frame)})" if frame.file else f"{name} of {frame.object}"
