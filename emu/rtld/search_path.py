"""Where a needed object is looked for, and in which order.

A name with a slash is a path. Any other name is tried in the directories of: DT_RPATH of the object that
needs it, of that object's loaders and of the program (only if the object itself has no DT_RUNPATH);
LD_LIBRARY_PATH; DT_RUNPATH of the object; then in ld.so.cache; then in the system's directories. In each
directory, subdirectories for better CPUs come first.

One piece: the order of the directories is one rule.

Source: glibc elf/dl-load.c:_dl_map_object, open_path, fillin_rpath, _dl_init_paths; elf/dl-hwcaps.c; gABI
chapter 5 "Shared Object Dependencies".
"""

from __future__ import annotations

import errno
import os
from itertools import takewhile
from typing import TYPE_CHECKING

from emu.core.effects import Effect, without_guest
from emu.core.errors import ElfError, EmuError, LoaderError
from emu.core.events import LibrarySearch
from emu.core.ldso_events import CacheSearched, SearchEnded, SearchPathUsed, SearchStarted
from emu.core.record import NamedTuple
from emu.elf.constants import DF_1_NODEFLIB
from emu.rtld.cache import LdSoCache
from emu.rtld.dst import substitute, substitute_securely
from emu.rtld.kernel_asked import check_kernel
from emu.rtld.search_attempt import (
    LA_SER_CONFIG,
    LA_SER_DEFAULT,
    LA_SER_LIBPATH,
    LA_SER_RUNPATH,
    Attempt,
    FoundFile,
    check_header,
    why_passed_over,
)
from emu.rtld.search_memory import NEVER, copy_size, owe_list

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from emu.core.events import EventBus
    from emu.core.files import Backing, FileSystem
    from emu.rtld.owed import Owed
    from emu.rtld.search_view import MapView
    from emu.rtld.system_dirs import SystemDirs

_UNKNOWN, _EXISTING, _NONEXISTING = range(3)
_MOST_CACHE = 256 << 20


class Who(NamedTuple):
    """For whom a search is made.

    `loader` needs the object (None: nobody in particular), `main` is the program, `head` the first object of
    the namespace that it is for. `auditor` tells that an auditor itself is looked for: the program's
    DT_RUNPATH counts then. With `quiet`, auditors load what they need: no memory is kept of directories that
    do not exist.
    """

    loader: MapView | None
    main: MapView | None
    head: MapView | None = None
    auditor: bool = False
    quiet: bool = False


class _Directory:
    """A directory of some search list.

    Its name with a trailing slash, and what is known of each of its subdirectories. `kind` is that of the
    list that it came with first, `origin` the name of the object that this list belongs to (None: nobody's).
    """

    __slots__ = ("kind", "name", "origin", "status")

    def __init__(self, name: str, subdirs: int, kind: str, origin: str | None) -> None:
        self.name, self.kind, self.origin = name, kind, origin
        # A relative directory means another one after chdir, so it is never written off.
        self.status = [_UNKNOWN if name.startswith("/") else _EXISTING] * subdirs


class SearchPath:
    """The search for needed objects of one process, with its memory of directories that do not exist.

    `env` is the guest's environment at start-up; `secure` is AT_SECURE. Before the first search `use` must
    say what ld.so's build has compiled in.
    """

    __slots__ = (
        "_bus", "_cache", "_directories", "_env_path", "_env_dirs", "_files", "_lists", "_secure", "_subdirs", "_system",
        "kernel", "last_errno", "objsearch", "owed", "system_dirs",
    )  # fmt: skip

    last_errno: int
    """Why the last `find` returned None: the errno that ld.so would report."""
    system_dirs: SystemDirs
    """What ld.so's build has compiled in."""
    kernel: int
    """The newest kernel that an object may ask for (`kernel_asked.py`); 0 where ld.so does not look."""
    objsearch: Callable[[str, MapView, int], Generator[Effect, int, str | None]] | None
    """Asks the auditors, if there are any: the path to be opened in place of the one
    given, None to pass it over.
    """

    owed: Owed | None
    """Makes the calls of the program's malloc, where there is a program."""

    def __init__(
        self, files: FileSystem, bus: EventBus, env: Mapping[str, str], secure: bool = False
    ) -> None:
        self._files, self._bus, self._secure = files, bus, secure
        self._subdirs: tuple[str, ...] = ()
        self._directories: dict[str, _Directory] = {}
        self._lists: dict[tuple[MapView, str], list[_Directory]] = {}
        self._env_path = "" if secure else env.get("LD_LIBRARY_PATH", "")
        self._env_dirs: list[_Directory] | None = None if self._env_path else []
        self._system: list[_Directory] = []
        self._cache: LdSoCache | None = None
        self.last_errno = self.kernel = 0
        self.objsearch = None
        self.owed = None

    def use(self, system_dirs: SystemDirs, kernel: int = 0) -> None:
        """Search as the build of ld.so does that has `system_dirs` compiled in; `kernel` as the member."""
        self.kernel, self.system_dirs, self._subdirs = kernel, system_dirs, system_dirs.subdirs
        self._system = self._intern(system_dirs.directories, "system search path", None)

    def initialise(self, main: MapView | None) -> None:
        """Take the program's own list apart, then LD_LIBRARY_PATH: a directory belongs
        to the list that names it first.

        Source: glibc elf/dl-load.c:_dl_init_paths.
        """
        if main is not None:
            for tag in ("RPATH", "RUNPATH"):
                self._list_of(main, tag, main)
        if self._env_dirs is None:
            elements = self._env_path.replace(";", ":").split(":")
            self._env_dirs = self._intern(self._expand_elements(elements, main), "LD_LIBRARY_PATH", None)

    def find(
        self,
        name: str,
        loader: MapView | None,
        main: MapView | None,
        check: Callable[[Backing, str], object] = check_header,
        namespace: int = 0,
        any_class: bool = False,
    ) -> FoundFile | None:
        """Look for the object that `loader` (None: nobody in particular) needs by `name`, and open it.

        See `finding`.
        """
        return without_guest(self.finding(name, Who(loader, main), check, namespace, any_class))

    def finding(
        self,
        name: str,
        who: Who,
        check: Callable[[Backing, str], object] = check_header,
        namespace: int = 0,
        any_class: bool = False,
    ) -> Generator[Effect, int, FoundFile | None]:
        """Look for an object by `name`, and open it; auditors may have a say.

        `check` judges an opened file: it raises ForeignObjectError where the search should go on, any other
        error where the search should end with it.

        Returns None with `last_errno` set if there is no such file. Raises LoaderError "wrong ELF class:
        ELFCLASS32" if only files of that class were found, and "cannot read file data" for a directory in
        place of a file. With `any_class` files of another class count for none.
        Source: glibc elf/dl-load.c:_dl_map_object.
        """
        attempt = Attempt(self, name, check, self.last_errno)
        self.last_errno = errno.ENOENT
        if "/" in name:
            path = name if who.loader is None else self.expand(name, who.loader, who.main)
            origin = who.loader.origin if who.loader is not None else None
            size = copy_size(name, origin, self.system_dirs.lib)
            found = yield from attempt.open_copy(path, "path", None, 0, size)
        else:
            if self._bus.ldso:
                self._bus.emit(SearchStarted(name, namespace))
            found = yield from self._search(attempt, who)
            if self._bus.ldso:
                self._bus.emit(SearchEnded(name))
        if found is None:
            if attempt.wrong_class and not any_class:
                raise LoaderError(name, "wrong ELF class: ELFCLASS32")
            self.last_errno = attempt.errno
        else:
            self.last_errno = 0
        return found

    def _search(self, attempt: Attempt, who: Who) -> Generator[Effect, int, FoundFile | None]:
        loader, main = who.loader, who.main
        for directories, rule, asker, code in self._before_cache(who):
            if self.owed is not None:
                yield from self.owed.settle()
            if found := (
                yield from self._try_directories(attempt, directories, rule, asker, code, who.quiet)
            ):
                return found
        user = loader or main
        no_default_dirs = user is not None and bool(user.dynamic.flags_1 & DF_1_NODEFLIB)
        cached = self._cached(attempt.name)
        if self._bus.ldso:
            self._bus.emit(CacheSearched(self.system_dirs.cache, cached or ""))
        asker = loader or who.head
        if (
            cached is not None
            and not (no_default_dirs and cached.startswith(self.system_dirs.directories))
            and (found := (yield from self._open_cached(attempt, cached, asker)))
        ):
            return found
        if no_default_dirs:
            return None
        return (
            yield from self._try_directories(
                attempt, self._system, "default directory", asker, LA_SER_DEFAULT, who.quiet
            )
        )

    def _open_cached(
        self, attempt: Attempt, path: str, asker: MapView | None
    ) -> Generator[Effect, int, FoundFile | None]:
        size = len(os.fsencode(path)) + 1
        return attempt.open_copy(path, "ld.so.cache", asker, LA_SER_CONFIG, size)

    def _before_cache(self, who: Who) -> Iterable[tuple[list[_Directory], str, MapView | None, int]]:
        """Yield the search lists that come before ld.so.cache, each with its rule, and whom auditors are told
        to ask, with which code.
        """
        loader, main = who.loader, who.main
        if loader is None or loader.runpath is None:
            map_, main_is_done = loader, main is None
            while map_ is not None:
                directories = self._list_of(map_, "RPATH", main)
                yield directories, f"RPATH of {map_.display_name}", loader, LA_SER_RUNPATH
                main_is_done |= map_ is main
                map_ = map_.loader
            if not main_is_done and main is not None:
                for tag in ("RPATH", "RUNPATH") if who.auditor else ("RPATH",):
                    directories = self._list_of(main, tag, main)
                    yield directories, f"{tag} of {main.display_name}", loader or main, LA_SER_RUNPATH
        if self._env_dirs is None:
            self.initialise(main)
        yield self._env_dirs or [], "LD_LIBRARY_PATH", loader or main, LA_SER_LIBPATH
        if loader is not None:
            directories = self._list_of(loader, "RUNPATH", main)
            yield directories, f"RUNPATH of {loader.display_name}", loader, LA_SER_RUNPATH

    def _list_of(self, map_: MapView, tag: str, main: MapView | None) -> list[_Directory]:
        """Return an object's own search list; it is taken apart once.

        Source: glibc elf/dl-load.c:cache_rpath, decompose_rpath.
        """
        if tag == "RUNPATH":
            text = map_.runpath
        else:
            text = map_.rpath if map_.runpath is None else None
        if not text:
            if self.owed is not None and self.owed.active:
                self.owed.lists[map_, tag] = NEVER
            return []
        known = self._lists.get((map_, tag))
        if known is None:
            if self.owed is not None and self.owed.active:
                self._owe_list(self.owed, map_, tag, text, main)
            known = self._intern(self._expand_elements(text.split(":"), map_, main), tag, map_.name)
            self._lists[map_, tag] = known
        return known

    def _owe_list(self, owed: Owed, map_: MapView, tag: str, text: str, main: MapView | None) -> None:
        seen = set(self._directories)
        found: list[tuple[str, str | None]] = []
        for element in text.split(":"):
            names = list(self._expand_elements([element], map_, main))
            fresh = [name for name in names if name not in seen]
            seen.update(names)
            found.append((element, fresh[0] if fresh else None))
        owe_list(owed, map_, tag, text, found, self.system_dirs.lib, len(self._subdirs))

    def _expand_elements(
        self, elements: Iterable[str], map_: MapView | None, main: MapView | None = None
    ) -> Iterable[str]:
        """Yield directory names with a trailing slash; "" is the working directory.

        An element that cannot be expanded is dropped.
        """
        for element in elements:
            if element == "":
                yield ""
            elif expanded := self.expand(element, map_, main):
                yield expanded.rstrip("/") + "/"

    def _intern(self, names: Iterable[str], kind: str, origin: str | None) -> list[_Directory]:
        """Return the directories of a search list, each once; lists share what is known of a directory."""
        directories = self._directories
        for_list: dict[str, _Directory] = {}
        for name in names:
            if name not in directories:
                directories[name] = _Directory(name, len(self._subdirs), kind, origin)
            for_list[name] = directories[name]
        return list(for_list.values())

    def expand(self, text: str, map_: MapView | None, main: MapView | None) -> str:
        """Replace the dynamic string tokens in a path of `map_`;
        "" if that is impossible, or in a secure process not allowed.
        """
        origin = map_.origin if map_ is not None else None
        if not self._secure:
            return substitute(text, origin, self.system_dirs.lib)
        trusted = self.system_dirs.directories if map_ is main else None
        return substitute_securely(text, origin, self.system_dirs.lib, trusted)

    def _try_directories(
        self,
        attempt: Attempt,
        directories: list[_Directory],
        rule: str,
        asker: MapView | None,
        code: int,
        quiet: bool,
    ) -> Generator[Effect, int, FoundFile | None]:
        """Try every directory of a list that may exist;
        a list without any is emptied, but for the system's and the user's. Source: open_path.
        """
        kind = ""
        any_at_all = False
        for at, directory in enumerate(directories):
            if self._bus.ldso and directory.kind is not kind:
                kind = directory.kind
                self._show_path(directories[at:], kind)
            status = directory.status
            any_exists = False
            for index, subdir in enumerate(self._subdirs):
                if status[index] == _NONEXISTING:
                    continue
                place = directory.name + subdir
                found = yield from attempt.open(place + attempt.name, rule, asker, code)
                if status[index] == _UNKNOWN and not (quiet and found is None):
                    exists = found is not None or self._files.is_directory(place[:-1] or "/")
                    status[index] = _EXISTING if exists else _NONEXISTING
                    if not exists:
                        attempt.errno = errno.ENOENT
                if found is not None:
                    return found
                any_exists |= status[index] != _NONEXISTING
            if any_exists and attempt.errno not in (errno.ENOENT, errno.EACCES):
                # The file is there, but there is something wrong with it: ld.so gives up this list.
                return None
            any_at_all |= any_exists
        if not any_at_all and directories is not self._system and directories is not self._env_dirs:
            directories.clear()
        return None

    def _show_path(self, directories: list[_Directory], kind: str) -> None:
        """Tell of the directories that come next in a list, as far as they are of one kind."""
        shown = []
        for directory in takewhile(lambda directory: directory.kind is kind, directories):
            places = zip(self._subdirs, directory.status, strict=True)
            paths = [directory.name + subdir for subdir, status in places if status != _NONEXISTING]
            shown += [path if path == "/" else path.removesuffix("/") for path in paths]
        origin = directories[0].origin
        self._bus.emit(SearchPathUsed(tuple(shown), kind, origin or "", origin is not None))

    def _cached(self, name: str) -> str | None:
        if self._cache is None:
            try:
                backing = self._files.open_for_loading(self.system_dirs.cache)
                if backing.size() > _MOST_CACHE:
                    raise ElfError(self.system_dirs.cache, f"a cache of {backing.size():#x} bytes")
                data = backing.pread(backing.size(), 0)
            except OSError:
                data = b""  # without the file ld.so goes on to the default directories
            self._cache = LdSoCache(data, self.system_dirs.hwcaps, self.system_dirs.legacy, self.kernel)
        return self._cache.lookup(os.fsencode(name))

    def unload_cache(self) -> None:
        """Forget ld.so.cache, as ld.so does after start-up and after each dlopen:
        the next search reads it anew.

        Source: glibc elf/dl-cache.c:_dl_unload_cache.
        """
        self._cache = None

    def listing(self, map_: MapView, main: MapView | None, in_base: bool) -> list[str]:
        """Return the directories that a search for what `map_` needs goes through, ld.so.cache left out,
        as dlinfo tells them.

        For an object of the base namespace (`in_base`) the program's DT_RPATH comes even where it has come as
        a loader's.
        Source: glibc elf/dl-load.c:_dl_rtld_di_serinfo.
        """
        lists: list[list[_Directory]] = []
        if map_.runpath is None:
            loader: MapView | None = map_
            while loader is not None:
                lists.append(self._list_of(loader, "RPATH", main))
                loader = loader.loader
            if in_base and main is not None and main is not map_:
                lists.append(self._list_of(main, "RPATH", main))
        lists.append(self._env_dirs or [])
        lists.append(self._list_of(map_, "RUNPATH", main))
        if not map_.dynamic.flags_1 & DF_1_NODEFLIB:
            lists.append(self._system)
        return [d.name.rstrip("/") or ("/" if d.name else ".") for directories in lists for d in directories]

    def forget(self, map_: MapView) -> None:
        """Drop the search lists of an object that is gone."""
        for tag in ("RPATH", "RUNPATH"):
            self._lists.pop((map_, tag), None)

    def try_open(
        self, name: str, path: str, rule: str, check: Callable[[Backing, str], object], chosen: str | None
    ) -> FoundFile:
        """Open and judge one candidate; what is opened is `chosen`.

        Raises OSError, ForeignObjectError, or what `check` raises.

        Source: open_verify.
        """
        backing = None
        try:
            if chosen is None:
                raise OSError(self.last_errno, "an auditor passed it over")
            backing = self._files.open_for_loading(chosen)
            check(backing, chosen)
            if self.kernel:
                check_kernel(backing, chosen, self.kernel)
        except (OSError, EmuError) as error:
            if self._bus.libs:
                self._bus.emit(LibrarySearch(name, path, rule, False, *why_passed_over(error, backing)))
            raise
        if self._bus.libs:
            self._bus.emit(LibrarySearch(name, path, rule, True))
        return FoundFile(path, backing, rule)
