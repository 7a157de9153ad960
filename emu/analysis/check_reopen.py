"""Rules about files: dlopen that gives back an object although its name leads to another file by now, and TLS
segments that are not aligned.

Source: glibc elf/dl-load.c:_dl_map_object (an object is found by its names and its SONAME before any file is
looked at, then by device and inode); psABI 3.4.2, gABI "Program Header" (p_vaddr and p_align are congruent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.check_notes import NOWHERE, Notes, Occasion, base
from emu.core.errors import EmuError
from emu.core.events import EventBus
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.rtld.link_map import LT_LOADED
from emu.rtld.search_path import SearchPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.core.dl_events import Opened, OpenFailed, OpenRequested
    from emu.core.events import Record
    from emu.rtld.link_map import LinkMap

REOPEN, TLS = "reopen-gives-old", "tls-misaligned"


class _ReopenCall(NamedTuple):
    """An open in progress: the name that was asked for, where, and the newest object there was."""

    file: str
    place: Occasion
    newest: int


class _File(NamedTuple):
    """What tells a file from another under the same name: device, inode, size, time of its last change."""

    dev: int
    ino: int
    size: int
    mtime: int


class FileChecks:
    """Knows from which file each opened object came, and which file its name leads to now."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._opening: dict[int, list[_ReopenCall]] = {}
        self._loaded: dict[int, _File] = {}
        self._first: dict[int, Occasion] = {}

    def look(self, new: Sequence[LinkMap]) -> None:
        """Objects were linked: note their files, and look at their TLS segments."""
        for map_ in new:
            if map_.type == LT_LOADED and REOPEN in self._notes.rules:
                file = self._file(map_.path)
                if file is not None:
                    self._loaded[map_.serial] = file
            for phdr in map_.phdrs:
                if phdr.type == c.PT_TLS and phdr.memsz and TLS in self._notes.rules:
                    self._tls(map_, phdr.vaddr, phdr.align)

    def _file(self, path: str) -> _File | None:
        try:
            meta = self._notes.process.kernel.fs.find(path).stat()
        except OSError:
            return None
        return _File(meta.dev, meta.ino, meta.size, meta.mtime)

    # -- opens -----------------------------------------------------------------------------------------------

    def open_requested(self, record: Record, event: OpenRequested) -> None:
        """An open begins."""
        newest = max((map_.serial for map_ in self._notes.maps()), default=0)
        self._opening.setdefault(record.task, []).append(_ReopenCall(event.file, self._notes.here(), newest))

    def open_failed(self, record: Record, _event: OpenFailed) -> None:
        """An open failed."""
        if opening := self._opening.get(record.task):
            opening.pop()

    def opened(self, record: Record, event: Opened) -> None:
        """An open succeeded: is the object from the file that its name leads to?"""
        opening = self._opening.get(record.task)
        map_ = self._notes.map_named(event.name, event.namespace)
        if not opening or map_ is None:
            return
        asked = opening.pop()
        if map_.serial > asked.newest:
            self._first[map_.serial] = asked.place
            return
        if REOPEN not in self._notes.rules or not asked.file or "$" in asked.file:
            return
        now = self._leads_to(asked, map_)
        if now is None:
            return
        path, file = now
        known = self._loaded.get(map_.serial)
        if (file.dev, file.ino) != map_.file_id and map_.file_id != (0, 0):
            self._tell(
                asked,
                map_,
                f"{'the file there is' if '/' in asked.file else 'its name leads to'} another{' now' if '/' in asked.file else ''} ({path})",
            )
        elif known is not None and file != known:
            self._tell(asked, map_, "the file there has been written again since")

    def _leads_to(self, asked: _ReopenCall, map_: LinkMap) -> tuple[str, _File] | None:
        """Return the path and the file that the name leads to, were nothing loaded."""
        process = self._notes.process
        rtld = process.rtld
        assert rtld is not None
        path = asked.file
        if "/" not in path:
            if rtld.auditors:
                return None  # they may have an answer of their own
            search = SearchPath(process.kernel.fs, EventBus(), rtld.env, rtld.secure)
            search.use(rtld.search.system_dirs, rtld.search.kernel)
            main = rtld.namespaces[0].main
            search.initialise(main)
            try:
                found = search.find(path, self._asker(asked.place), main, namespace=map_.ns)
            except EmuError:
                return None
            if found is None:
                return None
            path = found.path
        file = self._file(path)
        if file is None:
            return None
        try:
            real = process.kernel.fs.realpath(path)
        except OSError:
            real = path
        return (base(real) if base(real) != base(map_.path) else real), file

    def _asker(self, place: Occasion) -> LinkMap | None:
        """Return the object that called dlopen."""
        rtld = self._notes.process.rtld
        assert rtld is not None
        libcs = [namespace.libc_map for namespace in rtld.namespaces]
        maps = (rtld.find_map(frame.frame.pc) for frame in place.frames)
        return next(
            (map_ for map_ in maps if map_ is not None and map_ not in libcs and map_ is not rtld.ld_so), None
        )

    def _tell(self, asked: _ReopenCall, map_: LinkMap, what: str) -> None:
        notes = self._notes
        first = self._first.get(map_.serial, NOWHERE)
        at, before = notes.line(asked.place), notes.line(first)
        same = (
            "same name"
            if asked.file in (map_.name, map_.path) or asked.file in map_.lib_names
            else "same file number"
        )
        if asked.file == map_.soname and asked.file not in (map_.name, map_.path):
            same = "same SONAME"
        old = f"the object opened at {before}" if before else f"the object that was loaded from {map_.path}"
        notes.report(
            REOPEN, f'dlopen("{asked.file}"){f" at {at}" if at else ""} gave {old} ({same}); {what}',
            asked.place, [("opened by", first)], [map_.display_name], key=(map_.serial, asked.file),
            remedies=[
                f"dlclose all its handles first ({max(map_.direct_opencount - 1, 0)} before this one), and see that it goes"
                " (emu why tells what keeps it)",
                "open the new file by a name that was never opened: a copy with a name of its own (a SONAME does not count for a path)",
            ],
        )  # fmt: skip

    # -- TLS -------------------------------------------------------------------------------------------------

    def _tls(self, map_: LinkMap, vaddr: int, align: int) -> None:
        name = base(map_.display_name)
        symbols = self._notes.process.symbols
        wanted = symbols.tls_section_alignment(symbols.file(map_.path, map_.file_id))
        if align > 1 and vaddr % align:
            text = (
                f"the TLS segment of {name} begins at {vaddr:#x}, which is no multiple of its alignment {align}:"
                f" its thread_locals may lie {vaddr % align} bytes off"
            )
        elif wanted > max(align, 1):
            text = (
                f"the TLS segment of {name} has alignment {align}, but a section in it wants {wanted}:"
                " its thread_locals may be misaligned"
            )
        else:
            return
        self._notes.report(
            TLS, text, objects=[map_.display_name],
            remedies=[f"link {name} again, so that PT_TLS has the largest alignment in it, {max(wanted, align)}, and begins at such"],
        )  # fmt: skip
