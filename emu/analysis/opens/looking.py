"""The search for a file, asked again: by the linker's own rules,
as they are or as they would be with other paths.
"""

from __future__ import annotations

import errno
import os
import posixpath
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Trial, Tried
from emu.analysis.opens.files import REMEDY, foreign, refusal, what_is
from emu.core.errors import EmuError, MemoryFault
from emu.core.events import EventBus
from emu.core.record import NamedTuple
from emu.glibc.probe import find_own
from emu.glibc.release import otherwise
from emu.kernel.uname import UNAME
from emu.rtld.kernel_asked import kernel_number, kernel_text
from emu.rtld.search_path import SearchPath

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.events import Record
    from emu.elf.edit import Edit
    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld
    from emu.rtld.search_view import DynamicView, MapView


class As:
    """An object as a search would see it if it had other paths. It compares equal to nothing but itself."""

    def __init__(self, map_: MapView, rpath: str | None, runpath: str | None, loader: MapView | None) -> None:
        self._map, self.rpath, self.runpath, self.loader = map_, rpath, runpath, loader

    @property
    def name(self) -> str:
        """The path that it was loaded by."""
        return self._map.name

    @property
    def display_name(self) -> str:
        """The name for people."""
        return self._map.display_name

    @property
    def origin(self) -> str | None:
        """What $ORIGIN stands for."""
        return self._map.origin

    @property
    def dynamic(self) -> DynamicView:
        """The dynamic section."""
        return self._map.dynamic


class Look(NamedTuple):
    """What a search came to: the path and the rule that led to it (both empty: nothing), the candidates in
    order, and why it ended with an error.
    """

    path: str
    rule: str
    tried: tuple[tuple[str, str], ...]
    error: str


class Looking:
    """Asks the loader's search about names, for objects as they are or would be.

    Nothing that it asks is remembered by the process.
    """

    def __init__(self, process: Process, rtld: Rtld) -> None:
        self.process, self.rtld, self.files = process, rtld, process.kernel.fs
        self.main = rtld.namespaces[0].main
        self.system_dirs = rtld.search.system_dirs.directories
        self.cwd = self.files.realpath(".")

    def look(
        self,
        name: str,
        loader: MapView | None,
        main: MapView | None = None,
        env: Mapping[str, str] | None = None,
        *,
        secure: bool | None = None,
    ) -> Look:
        """Look for `name` as `loader` would, in a process with another environment perhaps."""
        tried: list[tuple[str, str]] = []

        def note(record: Record) -> None:
            tried.append((record.event.path, record.event.rule))

        bus = EventBus()
        bus.subscribe(note, ("libs",))
        search = SearchPath(
            self.rtld.files,
            bus,
            self.rtld.env if env is None else env,
            self.rtld.secure if secure is None else secure,
        )
        search.use(self.rtld.search.system_dirs, self.rtld.search.kernel)
        try:
            found = search.find(name, loader, main or self.main)
        except EmuError as error:
            return Look(
                "", "", tuple(tried), getattr(error, "text", "") or getattr(error, "reason", str(error))
            )
        return Look(found.path if found else "", found.rule if found else "", tuple(tried), "")

    def would_do(self, name: str, loader: MapView | None, main: MapView | None = None, **env: str) -> str:
        """Return the path that a search would take and that could be loaded; empty if there is none."""
        path = self.look(name, loader, main, {**self.rtld.env, **env} if env else None).path
        return path if path and not self._refusal(path) else ""

    def would_do_insecurely(self, name: str, loader: MapView, env: Mapping[str, str]) -> str:
        """Return the path that a search would take in a process without set-id bits, and that could be
        loaded; empty if there is none.
        """
        path = self.look(name, loader, env=env, secure=False).path
        return path if path and not self._refusal(path) else ""

    def directories(self, text: str, map_: MapView) -> list[str]:
        """Return the directories of a DT_RPATH or DT_RUNPATH, without what cannot be expanded;
        "" is the working directory.
        """
        elements = [(e, self.rtld.search.expand(e, map_, self.main)) for e in text.split(":")]
        return [
            found.rstrip("/") or "/" if written else "" for written, found in elements if found or not written
        ]

    def variable(self, name: str) -> str | None:
        """Return a variable of the program's own environment, as it is now; None if it is not there.

        Ld.so reads its variables once, when the process starts. Source: ld.so(8).
        """
        libc, memory = self.rtld.namespaces[0].libc_map, self.rtld.memory
        entry = find_own(libc, b"__environ") if libc is not None else None
        if libc is None or entry is None:
            return None
        prefix = os.fsencode(name) + b"="
        try:
            at = memory.read_u64(libc.addr + entry.value)
            while at and (text := memory.read_u64(at)):
                if memory.read(text, len(prefix)) == prefix:
                    return os.fsdecode(memory.read_cstr(text + len(prefix)))
                at += 8
        except MemoryFault:
            return None
        return None

    def judge(self, path: str) -> Tried:
        """Return what there is to say of a candidate."""
        try:
            self.files.look_at(path)
        except OSError as error:
            return self._unreadable(path, error)
        why = self._refusal(path)
        if not why:
            return Tried(path, "would-do", "")
        if "ELF class" in why or "ELF machine" in why:
            outcome = "wrong-class" if "ELF class" in why else "wrong-machine"
            return Tried(path, outcome, f"there, but {foreign(self.files, path)}; {REMEDY}")
        if "ABI tag" in why:
            note = f"{why}, and {otherwise('kernel_asked', False)} that counts"
            known, own = self.rtld.search.kernel, kernel_number(UNAME[2])
            told = f"Linux {UNAME[2]}" if known == own else f"{kernel_text(known)}, by LD_ASSUME_KERNEL"
            return Tried(path, "other-kernel", f"there, but {note}: this is {told}")
        what = what_is(self.files, path)
        return Tried(path, "bad", f"{why}: it is {what}" if what else why)

    def _refusal(self, path: str) -> str:
        return refusal(self.files, path, self.rtld.search.kernel)

    def _unreadable(self, path: str, error: OSError) -> Tried:
        directory = posixpath.dirname(path)
        if error.errno == errno.ENOENT and (target := self._dangling(path)):
            return Tried(path, "bad", f"a symbolic link to {target}, which is not there")
        if error.errno == errno.ENOENT and directory and not self.files.is_directory(directory):
            return Tried(directory, "no-directory", "no such directory")
        if error.errno == errno.ENOENT or error.errno == errno.ENOTDIR:
            return Tried(path, "absent", "")
        outcome = "denied" if error.errno in (errno.EACCES, errno.EPERM) else "bad"
        text = os.strerror(error.errno or 0).lower()
        return Tried(path, outcome, f"{text}: the process may not read it" if outcome == "denied" else text)

    def _dangling(self, path: str) -> str:
        """Return where a symbolic link points that leads nowhere."""
        try:
            inode = self.files.find(path, follow=False)
            return inode.target() if hasattr(inode, "target") else ""
        except OSError:
            return ""

    def absolute(self, path: str) -> str:
        """Return a guest path made absolute, without looking at links."""
        return posixpath.normpath(posixpath.join(self.cwd, path))

    def shown(self, path: str) -> str:
        """Return a path as it is best written: from the working directory where it lies below it."""
        absolute = self.absolute(path)
        return (
            absolute[len(self.cwd) :].lstrip("/")
            if absolute.startswith(self.cwd.rstrip("/") + "/")
            else absolute
        )

    def preloading(self, path: str) -> Trial:
        """Return the trial of a file that is preloaded before all others."""
        earlier = self.rtld.env.get("LD_PRELOAD", "")
        return Trial(env=(("LD_PRELOAD", f"{path}:{earlier}" if earlier else path),))

    def relinking(self, map_: LinkMap, edit: Edit) -> Trial:
        """Return the trial of an object that is linked otherwise."""
        return Trial(edits=((self.absolute(map_.path), edit),))

    def from_origin(self, path: str, map_: MapView) -> str:
        """Return a directory as a RUNPATH of an object would best say it:
        from $ORIGIN, or absolute if they have little in common.
        """
        if map_.origin is None:
            return self.absolute(path)
        way = posixpath.relpath(self.absolute(path), map_.origin)
        if way.startswith("../../.."):
            return self.absolute(path)
        return "$ORIGIN" if way == "." else f"$ORIGIN/{way}"


def base(name: str) -> str:
    """Return the last part of an object's name."""
    return os.path.basename(name) or name
