"""/proc: the process's view of itself, and a few facts about the machine, all from the emulated state.

Texts are made when a file is opened. There is one process, so /proc lists one; its threads are under task.
Source: proc(5); Linux fs/proc/array.c, task_mmu.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi, proctext
from emu.kernel.directory import Directory
from emu.kernel.inodes import Inode, Meta, Symlink, fail, fresh
from emu.kernel.openfile import OpenFile, TextFile
from emu.kernel.place import MagicLink

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.task import Task

Text = Callable[["Kernel"], bytes]
_PROCESS_FILES: dict[str, tuple[int, Text]] = {
    "auxv": (0o400, proctext.auxv_text),
    "cmdline": (0o444, proctext.cmdline_text),
    "environ": (0o400, proctext.environ_text),
    "limits": (0o444, proctext.limits_text),
    "maps": (0o444, proctext.maps_text),
    "smaps_rollup": (0o444, proctext.smaps_rollup_text),
    "statm": (0o444, proctext.statm_text),
}
_TASK_FILES: dict[str, Callable[[Kernel, Task], bytes]] = {
    "stat": proctext.stat_text,
    "status": proctext.status_text,
}


class ProcText(Inode):
    """A file whose text is made when it is opened."""

    __slots__ = ("_kernel", "_text")
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel, mode: int, text: Text) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | mode)))
        self._kernel = kernel
        self._text = text

    def open(self, path: str, flags: int) -> OpenFile:
        """Make the text."""
        return TextFile(self, path, flags, self._text(self._kernel))


class _CommFile(TextFile):
    """An open comm: what is written is the task's new name."""

    __slots__ = ("_kernel", "_task")

    def __init__(self, inode: Inode, path: str, flags: int, kernel: Kernel, task: Task) -> None:
        super().__init__(inode, path, flags, proctext.comm_text(kernel, task))
        self._kernel, self._task = kernel, task

    def pwrite(self, data: bytes, offset: int) -> int:
        """Rename the task. Source: Linux fs/proc/base.c:comm_write."""
        self._kernel.rename(self._task, data.partition(b"\0")[0])
        return len(data)

    def truncate(self, size: int) -> None:
        """Accept it: O_TRUNC changes nothing."""


class _Comm(Inode):
    """The name of a task, to read and to set."""

    __slots__ = ("_kernel", "_task")
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel, task: Task) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | 0o644)))
        self._kernel, self._task = kernel, task

    def open(self, path: str, flags: int) -> OpenFile:
        """Return a description."""
        return _CommFile(self, path, flags, self._kernel, self._task)


class ProcMemory(Inode):
    """/proc/self/mem: the process's memory by address."""

    __slots__ = ("_kernel",)
    fmt = abi.S_IFREG

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFREG | 0o600)))
        self._kernel = kernel

    def open(self, path: str, flags: int) -> OpenFile:
        """Refuse: debuggers' access has no place here."""
        raise fail(errno.EACCES)


class ProcDirectory(Directory):
    """A directory with fixed entries."""

    __slots__ = ("children",)

    def __init__(self, kernel: Kernel, parent: Directory, name: str, mode: int = 0o555) -> None:
        meta = Meta(fresh(kernel.fs, abi.S_IFDIR | mode))
        meta.nlink = 2
        super().__init__(kernel.fs, None, meta, parent, name)
        self.children: dict[str, Inode] = {}

    def size(self) -> int:
        """Directories of /proc have no size."""
        return 0

    def lookup(self, name: str) -> Inode | None:
        """Return an entry."""
        return self.children.get(name)

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the entries."""
        return [(name, inode.stat().ino, inode.fmt) for name, inode in sorted(self.children.items())]

    def rmdir(self, name: str) -> None:
        """Nothing here can be removed."""
        raise fail(errno.EPERM)


class _Place(MagicLink):
    """exe, cwd and root of the process."""

    __slots__ = ("_kernel", "_which")

    def __init__(self, kernel: Kernel, which: str) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFLNK | 0o777)))
        self._kernel, self._which = kernel, which

    def target(self) -> str:
        """Return the guest path."""
        kernel = self._kernel
        if self._which == "exe":
            if not kernel.program.exe:
                raise fail(errno.ENOENT)
            return kernel.program.exe
        return kernel.fs.cwd.path() if self._which == "cwd" else "/"

    def size(self) -> int:
        """Links of /proc have no size."""
        return 0

    def follow(self) -> Inode:
        """Return the file itself."""
        kernel = self._kernel
        if self._which == "exe":
            if kernel.program.exe_inode is None:
                raise fail(errno.ENOENT)
            return kernel.program.exe_inode
        return kernel.fs.cwd if self._which == "cwd" else kernel.fs.root


class _Duplicate(Inode):
    """What /proc/self/fd/N leads to when there is no inode to open again: the description itself."""

    __slots__ = ("_file",)

    def __init__(self, kernel: Kernel, file: OpenFile) -> None:
        super().__init__(kernel.fs, None, Meta(file.stat()))
        self._file = file

    def size(self) -> int:
        """Return the size that the description tells."""
        return self._file.stat().size

    def open(self, path: str, flags: int) -> OpenFile:
        """Return the same description."""
        if flags & abi.O_ACCMODE not in (self._file.flags & abi.O_ACCMODE, abi.O_RDWR & self._file.flags):
            writes, reads = flags & abi.O_ACCMODE != abi.O_RDONLY, flags & abi.O_ACCMODE != abi.O_WRONLY
            if writes and not self._file.writable or reads and not self._file.readable:
                raise fail(errno.EACCES)
        return self._file


class _FdLink(MagicLink):
    """/proc/self/fd/N."""

    __slots__ = ("_kernel", "_fd")

    def __init__(self, kernel: Kernel, fd: int) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFLNK | 0o700)))
        self._kernel, self._fd = kernel, fd

    def target(self) -> str:
        """Return the path under which the file was opened."""
        file = self._kernel.fds.get(self._fd)
        inode = file.inode
        gone = inode is not None and inode.fmt == abi.S_IFREG and not inode.stat().nlink
        return file.path + (" (deleted)" if gone and not file.path.endswith("(deleted)") else "")

    def size(self) -> int:
        """Return the length that Linux shows."""
        return 64

    def follow(self) -> Inode:
        """Return the inode of the open file, or the description itself where there is none."""
        file = self._kernel.fds.get(self._fd)
        return file.inode if file.inode is not None else _Duplicate(self._kernel, file)


class _FdDirectory(ProcDirectory):
    """/proc/self/fd and fdinfo: an entry for each open descriptor."""

    __slots__ = ("_kernel", "_info")

    def __init__(self, kernel: Kernel, parent: Directory, name: str, info: bool) -> None:
        super().__init__(kernel, parent, name, 0o500)
        self._kernel, self._info = kernel, info

    def lookup(self, name: str) -> Inode | None:
        """Return the entry of an open descriptor."""
        if not name.isascii() or not name.isdigit() or int(name) not in self._kernel.fds.files:
            return None
        fd = int(name)
        if not self._info:
            return _FdLink(self._kernel, fd)
        return ProcText(self._kernel, 0o400, lambda kernel: _fdinfo(kernel, fd))

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the numbers in use."""
        fmt = abi.S_IFREG if self._info else abi.S_IFLNK
        ino = self.stat().ino
        return [(str(fd), ino + 1 + fd, fmt) for fd in sorted(self._kernel.fds.files)]


def _fdinfo(kernel: Kernel, fd: int) -> bytes:
    file = kernel.fds.get(fd)
    flags = file.flags | (abi.O_CLOEXEC if fd in kernel.fds.cloexec else 0)
    return f"pos:\t{file.offset}\nflags:\t{flags:07o}\nmnt_id:\t1\nino:\t{file.stat().ino}\n".encode()


class _TaskDirectory(ProcDirectory):
    """/proc/self/task: a directory for each thread."""

    __slots__ = ("_kernel", "_known")

    def __init__(self, kernel: Kernel, parent: Directory) -> None:
        super().__init__(kernel, parent, "task")
        self._kernel = kernel
        self._known: dict[int, ProcDirectory] = {}

    def lookup(self, name: str) -> Inode | None:
        """Return the directory of a live thread."""
        task = self._kernel.tasks.get(int(name)) if name.isascii() and name.isdigit() else None
        if task is None or str(task.tid) != name:
            return None
        if task.tid not in self._known:
            self._known = {tid: known for tid, known in self._known.items() if tid in self._kernel.tasks}
            self._known[task.tid] = _process_directory(self._kernel, self, task)
        return self._known[task.tid]

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the thread ids."""
        ino = self.stat().ino
        return [(str(tid), ino + 1 + tid, abi.S_IFDIR) for tid in sorted(self._kernel.tasks)]


def _per_task(text: Callable[[Kernel, Task], bytes], task: Task) -> Text:
    return lambda kernel: text(kernel, task)


def _process_directory(kernel: Kernel, parent: Directory, task: Task) -> ProcDirectory:
    directory = ProcDirectory(kernel, parent, str(task.tid))
    for entry, (mode, text) in _PROCESS_FILES.items():
        directory.children[entry] = ProcText(kernel, mode, text)
    for entry, task_text in _TASK_FILES.items():
        directory.children[entry] = ProcText(kernel, 0o444, _per_task(task_text, task))
    directory.children["comm"] = _Comm(kernel, task)
    directory.children["mem"] = ProcMemory(kernel)
    for entry in ("exe", "cwd", "root"):
        directory.children[entry] = _Place(kernel, entry)
    directory.children["fd"] = _FdDirectory(kernel, directory, "fd", info=False)
    directory.children["fdinfo"] = _FdDirectory(kernel, directory, "fdinfo", info=True)
    return directory


def mount_proc(kernel: Kernel) -> None:
    """Put /proc in place of whatever the sysroot has there."""

    def make(parent: Directory, name: str) -> Inode:
        return _LazyProc(kernel, parent, name)

    kernel.fs.mount("/proc", make)


class _ThreadSelf(Symlink):
    """/proc/thread-self: the directory of the thread that asks."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFLNK | 0o777)), "")
        self._kernel = kernel

    def target(self) -> str:
        """Return the place."""
        return f"{abi.PID}/task/{self._kernel.scheduler.current.tid}"


class _LazyProc(ProcDirectory):
    """/proc itself. Its entries are made at the first look: most programs never do."""

    __slots__ = ("_kernel",)

    def __init__(self, kernel: Kernel, parent: Directory, name: str) -> None:
        super().__init__(kernel, parent, name)
        self._kernel = kernel

    def _fill(self) -> None:
        if self.children:
            return
        kernel = self._kernel
        pid = str(abi.PID)
        process = self.children[pid] = _process_directory(kernel, self, kernel.leader)
        process.children["task"] = _TaskDirectory(kernel, process)
        self.children["thread-self"] = _ThreadSelf(kernel)
        for link, target in (("self", pid), ("mounts", "self/mounts")):
            self.children[link] = Symlink(
                kernel.fs, None, Meta(fresh(kernel.fs, abi.S_IFLNK | 0o777)), target
            )
        for path, text in proctext.MACHINE_TEXTS.items():
            node: ProcDirectory = self
            *folders, last = path.split("/")
            for folder in folders:
                child = node.children.get(folder)
                if not isinstance(child, ProcDirectory):
                    child = node.children[folder] = ProcDirectory(kernel, node, folder)
                node = child
            node.children[last] = ProcText(kernel, 0o444, text)
        process.children["mounts"] = ProcText(
            kernel, 0o444, lambda k: b"rootfs / overlay rw 0 0\nproc /proc proc rw 0 0\n"
        )

    def lookup(self, name: str) -> Inode | None:
        """Return an entry."""
        self._fill()
        return super().lookup(name)

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the entries."""
        self._fill()
        return super().listing()
