"""/proc: what is told of each process, and a few facts about the machine, all from the emulated state.

Texts are made when a file is opened. Each process has a directory, its threads are under task.

Source: proc(5); Linux fs/proc/array.c, task_mmu.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.errors import fail
from emu.kernel.fs.directory import Directory
from emu.kernel.fs.file import Inode, Meta, OpenFile, fresh
from emu.kernel.fs.inodes import Symlink
from emu.kernel.fs.place import MagicLink
from emu.kernel.proc import more, proctext
from emu.kernel.proc.files import Comm, MachineText, ProcMemory, ProcText, Text

if TYPE_CHECKING:
    from emu.kernel.fs.vfs import FileSystem
    from emu.kernel.kernel import Kernel, System
    from emu.kernel.run.task import Task

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


class ProcDirectory(Directory):
    """A directory with fixed entries."""

    __slots__ = ("children",)

    def __init__(self, fs: FileSystem, parent: Directory, name: str, mode: int = 0o555) -> None:
        meta = Meta(fresh(fs, abi.S_IFDIR | mode))
        meta.nlink = 2
        super().__init__(fs, None, meta, parent, name)
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
            if not kernel.program.exe or kernel.family.status is not None:
                raise fail(errno.ENOENT)
            return kernel.program.exe
        return kernel.caller.cwd.path() if self._which == "cwd" else "/"

    def size(self) -> int:
        """Links of /proc have no size."""
        return 0

    def follow(self) -> Inode:
        """Return the file itself."""
        kernel = self._kernel
        if self._which == "exe":
            if kernel.program.exe_inode is None or kernel.family.status is not None:
                raise fail(errno.ENOENT)
            return kernel.program.exe_inode
        return kernel.caller.cwd if self._which == "cwd" else kernel.caller.root


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
        super().__init__(kernel.fs, parent, name, 0o500)
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
        super().__init__(kernel.fs, parent, "task")
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
    directory = ProcDirectory(kernel.fs, parent, str(task.tid))
    for entry, (mode, text) in (_PROCESS_FILES | more.PROCESS_TEXTS).items():
        directory.children[entry] = ProcText(kernel, mode, text)
    for entry, task_text in _TASK_FILES.items():
        directory.children[entry] = ProcText(kernel, 0o444, _per_task(task_text, task))
    directory.children["comm"] = Comm(kernel, task)
    directory.children["mem"] = ProcMemory(kernel)
    for entry in ("exe", "cwd", "root"):
        directory.children[entry] = _Place(kernel, entry)
    directory.children["fd"] = _FdDirectory(kernel, directory, "fd", info=False)
    directory.children["fdinfo"] = _FdDirectory(kernel, directory, "fdinfo", info=True)
    return directory


def _whole_process(kernel: Kernel, parent: Directory) -> ProcDirectory:
    """Return the directory of a process, threads included."""
    directory = _process_directory(kernel, parent, kernel.tasks.leader)
    directory.children["task"] = _TaskDirectory(kernel, directory)
    return directory


def mount_proc(system: System) -> None:
    """Put /proc in place of whatever the sysroot has there."""

    def make(parent: Directory, name: str) -> Inode:
        return _LazyProc(system, parent, name)

    system.fs.mount("/proc", make)


class _Self(Symlink):
    """/proc/self and /proc/thread-self: the directory of who asks."""

    __slots__ = ("_system", "_thread")

    def __init__(self, system: System, *, thread: bool) -> None:
        super().__init__(system.fs, None, Meta(fresh(system.fs, abi.S_IFLNK | 0o777)), "")
        self._system, self._thread = system, thread

    def target(self) -> str:
        """Return the place."""
        task = self._system.scheduler.current
        return f"{task.pid}/task/{task.tid}" if self._thread else str(task.pid)


class _LazyProc(ProcDirectory):
    """/proc itself. Its entries are made at the first look: most programs never do."""

    __slots__ = ("_known", "_system")

    def __init__(self, system: System, parent: Directory, name: str) -> None:
        super().__init__(system.fs, parent, name)
        self._system = system
        self._known: dict[int, ProcDirectory] = {}

    def _fill(self) -> None:
        if self.children:
            return
        system = self._system
        self.children["self"] = _Self(system, thread=False)
        self.children["thread-self"] = _Self(system, thread=True)
        self.children["mounts"] = Symlink(
            system.fs, None, Meta(fresh(system.fs, abi.S_IFLNK | 0o777)), "self/mounts"
        )
        for path, text in (proctext.MACHINE_TEXTS | more.MACHINE_TEXTS).items():
            node: ProcDirectory = self
            *folders, last = path.split("/")
            for folder in folders:
                child = node.children.get(folder)
                if not isinstance(child, ProcDirectory):
                    child = node.children[folder] = ProcDirectory(system.fs, node, folder)
                node = child
            node.children[last] = MachineText(system, text)

    def lookup(self, name: str) -> Inode | None:
        """Return an entry: a process by its id, or what there always is."""
        self._fill()
        processes = self._system.processes
        kernel = processes.get(int(name)) if name.isascii() and name.isdigit() else None
        if kernel is None or str(kernel.pid) != name:
            return super().lookup(name)
        if kernel.pid not in self._known:
            self._known = {pid: known for pid, known in self._known.items() if pid in processes}
            self._known[kernel.pid] = _whole_process(kernel, self)
        return self._known[kernel.pid]

    def listing(self) -> list[tuple[str, int, int]]:
        """Return the entries."""
        self._fill()
        ino = self.stat().ino
        processes = [(str(pid), ino + 1 + pid, abi.S_IFDIR) for pid in sorted(self._system.processes)]
        return processes + super().listing()
