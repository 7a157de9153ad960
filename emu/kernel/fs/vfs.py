"""The file system as the guest sees it: how a path is walked, and the calls that work on paths.

Every path is resolved here, name by name, in the guest's own tree: `..` stops at its root, and the target of
a symbolic link is a guest path too. So neither leads out of the sysroot. Nothing below this module ever
follows a link on the host.

One piece: each operation resolves its path, checks permissions and changes directories by the same few rules.

Source: path_resolution(7), open(2), rename(2), credentials(7).
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.caller import Caller
from emu.kernel.fs.directory import Directory, OverlayDirectory
from emu.kernel.fs.file import Content, Inode, Meta, OpenFile, PathFile, fresh
from emu.kernel.fs.inodes import Regular, RegularFile, SpecialInode, Symlink
from emu.kernel.fs.notices import IN_ACCESS, IN_MODIFY, Key, MovedEntry, Notices
from emu.kernel.fs.place import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    MagicLink,
    Place,
    check_no_cycle,
    jump,
    same_device,
    split_path,
    up,
)
from emu.kernel.fs.stat import MEMORY_DEV

_LOADER_READS = 832
"""How much of a file ld.so reads to judge it (struct filebuf)."""
_MAX_EXCESS = abi.PATH_MAX * 4
_KEPT_COST = 1024
"""What an inode that is kept is charged with, attributes and the host's path included."""


class FileSystem:
    """The guest's tree over the host directory `sysroot`, which all processes share.

    `caller` is the process that runs: paths are walked from its working directory, and its ids are what
    accesses are checked with.

    `charge_memory(size)` is asked before the overlay grows by `size` bytes and raises OSError(ENOSPC) at the
    limit.
    """

    HOST_SIDE = frozenset(("_ask",))

    def __init__(
        self,
        sysroot: str,
        now: Callable[[], int],
        charge_memory: Callable[[int], None],
        uid: int,
        gid: int,
        groups: tuple[int, ...] = (),
    ) -> None:
        self.on_store: Callable[[int, int, bytes, int], None] = lambda dev, ino, data, offset: None
        self.on_resize: Callable[[int, int], None] = lambda dev, ino: None
        self.now = now
        self.charge = charge_memory
        self.privileged = True
        self.notices: Notices | None = None
        self.on_refusal: Callable[[str], None] = lambda what: None
        self._ask: Callable[[str], None] | None = None
        self._ino = 1 << 48  # beside those of the host, whose devices they are on
        self._cache: weakref.WeakValueDictionary[object, Inode] = weakref.WeakValueDictionary()
        self._kept: set[Inode] = set()
        self.contents: weakref.WeakSet[Content] = weakref.WeakSet()
        """The files whose bytes are in memory, and charged for."""
        try:
            host = os.path.realpath(sysroot, strict=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, sysroot) from None
        self.root = OverlayDirectory(self, host, None, None, "")
        self.caller = Caller(self.root, uid, gid, groups)

    # -- who calls -------------------------------------------------------------------------------------------

    @property
    def uid(self) -> int:
        """The caller's user."""
        return self.caller.uid

    @property
    def gid(self) -> int:
        """The caller's group."""
        return self.caller.gid

    def watch(self, is_open: Callable[[Key], bool]) -> Notices:
        """Return who tells of what happens to files, from now on."""
        if self.notices is None:
            self.notices = Notices(is_open, self._spot_of)
        return self.notices

    def _spot_of(self, path: str) -> tuple[Directory, str] | None:
        """Return directory and name of a path without links, None if that is nowhere."""
        node: Inode | None = self.root
        *names, last = path.split("/")[1:] or [""]
        for name in names:
            node = node.lookup(name) if isinstance(node, Directory) else None
        return (node, last) if isinstance(node, Directory) and path.startswith("/") else None

    # -- what inodes ask -------------------------------------------------------------------------------------

    def stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Tell whoever keeps shared mappings of the file (see `on_store`)."""
        self.on_store(dev, ino, data, offset)

    def resized(self, dev: int, ino: int) -> None:
        """Tell whoever keeps mappings of the file (see `on_resize`)."""
        self.on_resize(dev, ino)

    def grant(self, what: str) -> None:
        """Let something be done on the host that only root may do, if `privileged`;
        else tell of it (see `on_refusal`) and raise OSError(EPERM).
        """
        if not self.privileged:
            self.on_refusal(what)
            raise fail(errno.EPERM)

    def new_ino(self) -> int:
        """Return a fresh inode number."""
        self._ino += 1
        return self._ino

    def watch_host(self, told: Callable[[str], None] | None) -> None:
        """From now on tell `told` (None: nobody) of each path of the host before it is looked at."""
        self._ask = told

    def asks(self, host: str) -> None:
        """A path of the host is about to be looked at."""
        if self._ask is not None:
            self._ask(host)

    def holds(self, inode: Content) -> None:
        """The bytes of a file are in memory from now on."""
        self.contents.add(inode)

    def keep(self, inode: Inode) -> None:
        """Hold an inode that differs from the host until exit. Raises OSError(ENOSPC) at the limit."""
        if inode not in self._kept:
            self.charge(_KEPT_COST)
            self._kept.add(inode)

    def release(self, inode: Inode) -> None:
        """Let go of an inode that has no name any more."""
        if inode in self._kept:
            self.charge(-_KEPT_COST)
            self._kept.discard(inode)

    def from_host(self, host: str, parent: OverlayDirectory, name: str) -> Inode | None:
        """Return the inode of a host file; None if there is no such file.

        Raises OSError for other failures.
        """
        self.asks(host)
        try:
            st = os.lstat(host)
        except FileNotFoundError:
            return None
        except ValueError:  # a NUL byte cannot be in a name
            raise fail(errno.EINVAL) from None
        fmt = st.st_mode & abi.S_IFMT
        key: object = host if fmt == abi.S_IFDIR else (st.st_dev, st.st_ino)
        inode = self._cache.get(key)
        if inode is None:
            if fmt == abi.S_IFDIR:
                inode = OverlayDirectory(self, host, None, parent, name)
            elif fmt == abi.S_IFREG:
                inode = Regular(self, host, None)
            elif fmt == abi.S_IFLNK:
                inode = Symlink(self, host, None)
            else:
                inode = SpecialInode(self, host, None, fmt)
            self._cache[key] = inode
        return inode

    # -- permission ------------------------------------------------------------------------------------------

    def allow(self, inode: Inode, wanted: int) -> None:
        """Check R_OK, W_OK, X_OK bits. Raises OSError(EACCES). Source: path_resolution(7), "Permissions"."""
        if self.uid == 0:
            if wanted & abi.X_OK and inode.fmt != abi.S_IFDIR and not inode.stat().mode & 0o111:
                raise fail(errno.EACCES)
            return
        st = inode.stat()
        if st.uid == self.uid:
            bits = st.mode >> 6
        elif st.gid == self.gid or st.gid in self.caller.groups:
            bits = st.mode >> 3
        else:
            bits = st.mode
        if wanted & ~bits & 7:
            raise fail(errno.EACCES)

    def allow_removal(self, directory: Directory, inode: Inode) -> None:
        """Check that a name may be taken out of `directory`, sticky bit included."""
        self.allow(directory, abi.W_OK | abi.X_OK)
        st = directory.stat()
        if self.uid and st.mode & abi.S_ISVTX and self.uid not in (st.uid, inode.stat().uid):
            raise fail(errno.EPERM)

    # -- the walk --------------------------------------------------------------------------------------------

    def walk(
        self, path: str, base: Directory | None = None, *, follow: bool = True, resolve: int = 0
    ) -> Place:
        """Walk `path` from `base` (the working directory when None); the last name need not exist.

        `follow` is for a symbolic link as last name; a trailing slash follows it anyhow. `resolve` are the
        RESOLVE_* of openat2: some keep the walk within `base`. Raises OSError: ENOENT, ENOTDIR, ELOOP,
        ENAMETOOLONG, EACCES, EXDEV.
        """
        if not path:
            raise fail(errno.ENOENT)
        if len(os.fsencode(path)) >= abi.PATH_MAX:
            raise fail(errno.ENAMETOOLONG)
        top = self.caller.cwd if base is None else base
        root = top if resolve & RESOLVE_IN_ROOT else self.caller.root
        parts, slash, node = split_path(path, top, root, resolve)
        links = 0
        while parts:
            name = parts.pop()
            if not isinstance(node, Directory):
                raise fail(errno.ENOTDIR)
            if self.uid:
                self.allow(node, abi.X_OK)
            if name == ".":
                continue
            if name == "..":
                node = up(node, top, root, resolve)
                continue
            if len(name) > abi.NAME_MAX // 4 and len(os.fsencode(name)) > abi.NAME_MAX:
                raise fail(errno.ENAMETOOLONG)
            child = node.lookup(name)
            if isinstance(child, Symlink) and (parts or follow or slash):
                links += 1
                if links > abi.SYMLINK_LIMIT or resolve & RESOLVE_NO_SYMLINKS:
                    raise fail(errno.ELOOP)
                if isinstance(child, MagicLink):
                    followed = jump(child, node, resolve)
                    if not parts:
                        return Place(node, name, followed, slash)
                    node = followed
                    continue
                more, more_slash, node = split_path(child.target(), node, root, resolve)
                slash = slash or more_slash and not parts
                parts.extend(more)
                if len(parts) > _MAX_EXCESS:
                    raise fail(errno.ENAMETOOLONG)
                continue
            if resolve & RESOLVE_NO_XDEV and child is not None:
                same_device(node, child)
            if not parts:
                if slash and child is not None and not isinstance(child, Directory):
                    raise fail(errno.ENOTDIR)
                return Place(node, name, child, slash)
            if child is None:
                raise fail(errno.ENOENT)
            node = child
        if not isinstance(node, Directory):
            raise fail(errno.ENOTDIR)
        return Place(node, "", node, slash)

    def find(self, path: str, base: Directory | None = None, *, follow: bool = True) -> Inode:
        """Return the inode that `path` leads to. Raises OSError."""
        return self.walk(path, base, follow=follow).found()

    def realpath(self, path: str) -> str:
        """Return the guest path of an existing file with every symbolic link resolved. Raises OSError."""
        place = self.walk(path)
        place.found()
        return self.within(place.path()) or place.path()

    def within(self, path: str) -> str | None:
        """Return what a path of the tree is called in the caller's own (chroot), None for what is outside."""
        root = self.caller.root.path()
        if root == "/":
            return path
        return path[len(root) :] or "/" if f"{path}/".startswith(f"{root}/") else None

    def is_directory(self, path: str) -> bool:
        """Whether `path` names a directory."""
        try:
            return isinstance(self.find(path), Directory)
        except OSError:
            return False

    def chdir(self, directory: Inode) -> None:
        """Change the working directory."""
        if not isinstance(directory, Directory):
            raise fail(errno.ENOTDIR)
        self.allow(directory, abi.X_OK)
        self.caller.cwd = directory

    def chroot(self, directory: Inode) -> None:
        """Change where absolute paths begin."""
        if not isinstance(directory, Directory):
            raise fail(errno.ENOTDIR)
        self.allow(directory, abi.X_OK)
        self.caller.root = directory

    # -- opening ---------------------------------------------------------------------------------------------

    def open(
        self, path: str, flags: int, mode: int = 0, base: Directory | None = None, *, resolve: int = 0
    ) -> OpenFile:  # fmt: skip
        """Open `path` as open(2) does with O_* `flags`; `mode` is for a file that is created, `resolve` as
        in `walk`.

        Raises OSError.
        """
        create = bool(flags & abi.O_CREAT) and not flags & abi.O_PATH
        follow = not flags & abi.O_NOFOLLOW and not (create and flags & abi.O_EXCL)
        place = self.walk(path, base, follow=follow, resolve=resolve)
        inode = place.inode
        if flags & abi.O_TMPFILE == abi.O_TMPFILE and not flags & abi.O_PATH:
            return self._open_nameless(place, flags, mode)
        if inode is None:
            if not create:
                raise fail(errno.ENOENT)
            if place.slash:
                raise fail(errno.EISDIR)
            if place.parent.stat().nlink == 0:  # the working directory, removed
                raise fail(errno.ENOENT)
            self.allow(place.parent, abi.W_OK | abi.X_OK)
            inode = place.parent.create(place.name, mode & 0o7777 & ~self.caller.umask)
            file = inode.open(place.path(), flags & ~abi.O_TRUNC)
            if self.notices is not None:
                self.notices.created(place.parent, place.name, inode)
                self.notices.opened(file, place)
            return file
        if create and flags & abi.O_EXCL:
            raise fail(errno.EEXIST)
        if flags & abi.O_DIRECTORY and not isinstance(inode, Directory):
            raise fail(errno.ENOTDIR)
        if flags & abi.O_PATH:
            return PathFile(place.path(), flags, inode)
        accmode = flags & abi.O_ACCMODE
        if isinstance(inode, Directory) and (create or accmode != abi.O_RDONLY):
            raise fail(errno.EISDIR)
        if not isinstance(inode, Symlink):
            self.allow(inode, (abi.R_OK, abi.W_OK, abi.R_OK | abi.W_OK, abi.R_OK | abi.W_OK)[accmode])
        file = inode.open(place.path(), flags)
        if self.notices is not None:
            self.notices.opened(file, place)
        if flags & abi.O_TRUNC and isinstance(inode, Regular) and accmode != abi.O_RDONLY:
            inode.truncate(0)
            if self.notices is not None:
                self.notices.of_file(file, IN_MODIFY)
        return file

    def _open_nameless(self, place: Place, flags: int, mode: int) -> OpenFile:
        if not isinstance(place.found(), Directory):
            raise fail(errno.ENOTDIR)
        if flags & abi.O_ACCMODE == abi.O_RDONLY:
            raise fail(errno.EINVAL)
        dev = place.found().stat().dev
        return self.nameless(f"{place.path()}/#{self._ino}", flags, mode & ~self.caller.umask, dev)

    def nameless(self, path: str, flags: int, mode: int, dev: int = MEMORY_DEV) -> RegularFile:
        """Return an open file in memory that no directory knows (O_TMPFILE, memfd_create)."""
        meta = Meta(fresh(self, abi.S_IFREG | mode & 0o7777, dev=dev))
        meta.nlink = 0
        return RegularFile(Regular(self, None, meta, bytearray()), path, flags)

    def open_for_loading(self, path: str) -> RegularFile:
        """Open a file read-only, for the loader; a device counts for what can be read at its start.

        Raises OSError (EISDIR).
        """
        file = self.open(path, abi.O_RDONLY | abi.O_CLOEXEC)
        if isinstance(file, RegularFile):
            if self.notices is not None:  # ld.so reads, maps and closes it
                self.notices.of_file(file, IN_ACCESS)
                self.notices.closed(file)
            return file
        if file.inode is None or isinstance(file.inode, Directory):
            raise fail(errno.EISDIR)
        return self.in_memory(path, file.read(_LOADER_READS))

    def look_at(self, path: str) -> RegularFile:
        """Open a file as `open_for_loading` does, for a reader of ours: who watches it is told nothing.

        Raises OSError (EISDIR).
        """
        notices, self.notices = self.notices, None
        try:
            return self.open_for_loading(path)
        finally:
            self.notices = notices

    def in_memory(self, path: str, content: bytes) -> RegularFile:
        """Return an open, read-only file with that content, which no directory knows;
        `path` is what it is called.
        """
        meta = Meta(fresh(self, abi.S_IFREG | 0o555))
        return RegularFile(Regular(self, None, meta, bytearray(content)), path, abi.O_RDONLY)

    # -- names -----------------------------------------------------------------------------------------------

    def new_name(self, path: str, base: Directory | None, *, directory: bool = False) -> Place:
        """Walk to a name that is to be made.

        Raises OSError(EEXIST) if it is there, EACCES if it may not be made.
        """
        place = self.walk(path, base, follow=False)
        if place.inode is not None:
            raise fail(errno.EEXIST)
        if place.slash and not directory:
            raise fail(errno.ENOENT)
        if place.parent.stat().nlink == 0:
            raise fail(errno.ENOENT)
        self.allow(place.parent, abi.W_OK | abi.X_OK)
        return place

    def tell_made(self, place: Place) -> None:
        """Tell who watches of a name that was made."""
        if self.notices is not None:
            self.notices.created(place.parent, place.name, place.parent.lookup(place.name))

    def mkdir(self, path: str, mode: int, base: Directory | None = None) -> None:
        """Make a directory."""
        place = self.new_name(path, base, directory=True)
        place.parent.mkdir(place.name, mode & 0o1777 & ~self.caller.umask)
        self.tell_made(place)

    def symlink(self, text: str, path: str, base: Directory | None = None) -> None:
        """Make a symbolic link that holds `text`."""
        if not text:
            raise fail(errno.ENOENT)
        place = self.new_name(path, base)
        place.parent.symlink(place.name, text)
        self.tell_made(place)

    def link(self, inode: Inode, path: str, base: Directory | None = None) -> None:
        """Give a file another name."""
        place = self.new_name(path, base)
        if isinstance(inode, Directory):
            raise fail(errno.EPERM)
        place.parent.link(place.name, inode)
        self.tell_made(place)

    def unlink(self, path: str, base: Directory | None = None) -> None:
        """Remove a name of a file."""
        place = self.walk(path, base, follow=False)
        inode = place.found()
        if not place.name or isinstance(inode, Directory):
            raise fail(errno.EISDIR)
        self.allow_removal(place.parent, inode)
        before = inode.stat() if self.notices is not None else None
        place.parent.unlink(place.name)
        if self.notices is not None and before is not None:
            self.notices.removed(place, before)

    def rmdir(self, path: str, base: Directory | None = None) -> None:
        """Remove an empty directory."""
        place = self.walk(path, base, follow=False)
        inode = place.found()
        if not place.name:
            last = path.rstrip("/").rpartition("/")[2]
            raise fail({".": errno.EINVAL, "..": errno.ENOTEMPTY}.get(last, errno.EBUSY))
        if not isinstance(inode, Directory):
            raise fail(errno.ENOTDIR)
        self.allow_removal(place.parent, inode)
        before = inode.stat() if self.notices is not None else None
        place.parent.rmdir(place.name)
        if self.notices is not None and before is not None:
            self.notices.removed(place, before)

    def rename(self, old: Place, new: Place, *, noreplace: bool = False, exchange: bool = False) -> None:
        """Move `old` to `new`, as rename(2) and renameat2(2) do. Raises OSError."""
        inode = old.found()
        if not old.name or not new.name:
            raise fail(errno.EBUSY)
        if noreplace and new.inode is not None:
            raise fail(errno.EEXIST)
        if isinstance(inode, Directory):
            check_no_cycle(inode, new.parent)
        elif old.slash or new.slash:
            raise fail(errno.ENOTDIR)
        self.allow_removal(old.parent, inode)
        if new.inode is None:
            self.allow(new.parent, abi.W_OK | abi.X_OK)
        else:
            self.allow_removal(new.parent, new.inode)
        if exchange:
            target = new.found()
            if isinstance(target, Directory):
                check_no_cycle(target, old.parent)
            there = MovedEntry(new, old, target.stat())
            old.parent.exchange(old.name, new.parent, new.name)
            if self.notices is not None:
                self.notices.renamed(old, new, exchange=True)
                self.notices.moved(MovedEntry(old, new, inode.stat()))
                self.notices.moved(there)
            return
        if new.inode is inode:
            return
        if new.inode is not None and isinstance(inode, Directory) != isinstance(new.inode, Directory):
            raise fail(errno.EISDIR if isinstance(new.inode, Directory) else errno.ENOTDIR)
        if isinstance(new.inode, Directory) and new.inode.listing():
            raise fail(errno.ENOTEMPTY)
        moved = MovedEntry(old, new, inode.stat())
        victim = new.inode.stat() if new.inode is not None else None
        old.parent.rename(old.name, new.parent, new.name)
        if self.notices is not None:
            self.notices.renamed(old, new, exchange=False)
            self.notices.moved(moved, victim)

    def show(self, directory: str) -> None:
        """Show a directory of the host at the same path; changes stay in memory. The root is what it is."""
        path = os.path.realpath(directory)
        if path != "/":
            self.mount(path, lambda parent, name: OverlayDirectory(self, path, None, parent, name))

    def mount(self, path: str, make: Callable[[Directory, str], Inode]) -> None:
        """Put `make(parent, name)` at the absolute guest path, with directories in memory on the way where
        there are none.
        """
        names = [name for name in path.split("/") if name]
        node: Directory = self.root
        for name in names[:-1]:
            child = node.lookup(name)
            if child is None:
                meta = Meta(fresh(self, abi.S_IFDIR | 0o755))
                child = OverlayDirectory(self, None, meta, node, name)
                if isinstance(node, OverlayDirectory):
                    node.mount(name, child)
            if not isinstance(child, Directory):
                raise fail(errno.ENOTDIR)
            node = child
        if not isinstance(node, OverlayDirectory):
            raise fail(errno.EBUSY)
        node.mount(names[-1], make(node, names[-1]))
        self.keep(node)
