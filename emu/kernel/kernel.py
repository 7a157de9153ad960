"""The kernel of one process: its state, and the dispatch of system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.core.errors import MemoryFault
from emu.kernel import abi, formats
from emu.kernel.clock import TICK_NS, Clock
from emu.kernel.devices import mount_devices
from emu.kernel.entropy import Entropy
from emu.kernel.fdtable import FdTable
from emu.kernel.hostfile import HostFile
from emu.kernel.names import syscall_name
from emu.kernel.passthrough import mount_writable
from emu.kernel.procfs import mount_proc
from emu.kernel.signals import Interrupted, Signals
from emu.kernel.syscalls import TABLE
from emu.kernel.timers import Timers
from emu.kernel.vfs import FileSystem

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.kernel.inodes import Inode
    from emu.kernel.openfile import OpenFile
    from emu.kernel.signals import Killed
    from emu.kernel.table import Entry, Result
    from emu.kernel.task import Task
    from emu.machine.address_space import AddressSpace
    from emu.machine.cpu import Cpu

_UNLIMITED = (abi.RLIM_INFINITY, abi.RLIM_INFINITY)
_STACK_LIMIT = 8 << 20
_NOFILE_LIMIT = 1024


class KernelConfig(NamedTuple):
    """What the user decides. `sysroot` and `writable` are host directories, `cwd` is a guest path.

    A writable directory appears at the same path in the guest. `max_memory` bounds, in bytes, guest mappings
    and overlay together. `stdio` are the host descriptors behind 0, 1 and 2 (None: closed).
    """

    sysroot: str = "/"
    writable: tuple[str, ...] = ()
    cwd: str = "/"
    max_memory: int = 4 << 30
    seed: int = 0
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    stdio: tuple[int | None, int | None, int | None] = (0, 1, 2)
    hwcap: int = 0x078B_FBFF
    """AT_HWCAP: CPUID.1:EDX of the machine's CPU model."""


class Program(NamedTuple):
    """What /proc/self tells about the program: guest path of the file, argv, envp, auxv as on the stack,
    and the stack's addresses.
    """

    exe: str
    exe_inode: Inode | None
    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...]
    auxv: bytes
    stack_top: int


class Kernel:
    """One process. `syscall` serves a trap; `signal_pending` tells the runner to call `deliver_signals` after
    it.

    `report` takes a line for the user (an unsupported system call) and is the caller's to set.
    """

    def __init__(
        self, config: KernelConfig, space: AddressSpace, bus: EventBus, clock: Clock | None = None
    ) -> None:
        self.config = config
        self.space = space
        self.arena = space.arena
        self.bus = bus
        self.clock = clock if clock is not None else Clock()
        self.report: Callable[[str], None] = lambda line: None
        self.cpu: Cpu
        self.tasks: dict[int, Task] = {}
        self.entropy = Entropy(config.seed)
        self.overlay_bytes = 0
        self.fs = FileSystem(
            config.sysroot,
            lambda: self.clock.realtime,
            self.charge_overlay,
            config.uid,
            config.gid,
            config.groups,
        )
        self.fs.on_store = space.shared_files.stored
        self.fs.on_resize = space.file_resized
        self.fds = FdTable(_NOFILE_LIMIT)
        self.program = Program("", None, (), (), b"", 0)
        self.brk_start = self.brk = 0
        self.dumpable = 1
        self.personality = 0
        self.no_new_privs = 0
        self.death_signal = 0
        self.rlimits = [_UNLIMITED] * abi.RLIMIT_COUNT
        self.rlimits[abi.RLIMIT_STACK] = (_STACK_LIMIT, abi.RLIM_INFINITY)
        self.rlimits[abi.RLIMIT_CORE] = (0, abi.RLIM_INFINITY)
        self.rlimits[abi.RLIMIT_NOFILE] = (_NOFILE_LIMIT, 4096)
        self.signals = Signals(self)
        self.timers = Timers(self)
        self._reported: set[str] = set()
        mount_devices(self)
        mount_proc(self)
        for directory in config.writable:
            mount_writable(self.fs, directory)
        self.fs.chdir(self.fs.find(config.cwd))
        for number, host in enumerate(config.stdio):
            if host is not None:
                self._adopt(number, host)

    def _adopt(self, number: int, host: int) -> None:
        try:
            os.fstat(host)
        except OSError:
            return  # started with this descriptor closed: so is the guest's
        self.fds.install(HostFile(host), fd=number)

    # -- system calls ----------------------------------------------------------------------------------------

    def syscall(self, task: Task, cpu: Cpu, number: int, args: tuple[int, ...]) -> Result:
        """Serve system call `number` with six argument registers; return the value for rax or an effect."""
        clock = self.clock
        clock.now += TICK_NS
        if clock.now >= self.timers.next_expiry:
            self.timers.expire()
        entry = TABLE.get(number & abi.U32)
        if entry is None:
            return self._unknown(number)
        self.cpu = cpu
        call = args[: entry.arity]
        if entry.narrow:
            narrowed = list(call)
            for index, mask, sign in entry.narrow:
                narrowed[index] = ((narrowed[index] & mask) ^ sign) - sign
            call = tuple(narrowed)
        if self.bus.syscalls:
            return self._traced(entry, task, call)
        try:
            return entry.handler(self, task, *call)
        except Interrupted as interruption:
            if interruption.restart:
                task.interrupted = number
            return -errno.EINTR
        except OSError as error:
            return -(error.errno or errno.EIO)
        except MemoryFault:
            return -errno.EFAULT

    def _traced(self, entry: Entry, task: Task, call: tuple[int, ...]) -> Result:
        before = formats.before(self, entry, call)
        result: Result
        try:
            result = entry.handler(self, task, *call)
        except Interrupted as interruption:
            if interruption.restart:
                task.interrupted = entry.number
            result = -errno.EINTR
        except OSError as error:
            result = -(error.errno or errno.EIO)
        except MemoryFault:
            result = -errno.EFAULT
        self.bus.emit(formats.event(self, entry, call, before, result))
        return result

    def _unknown(self, number: int) -> int:
        name = syscall_name(number & abi.U32)
        if self.bus.syscalls:
            self.bus.emit(formats.unknown(number & abi.U32, name))
        self.report_once(
            f"system call {name}",
            f"emu: syscall {name} ({number & abi.U32}) is not supported; the program was told ENOSYS",
        )
        return -errno.ENOSYS

    def report_once(self, key: str, line: str) -> None:
        """Tell the user something that would otherwise repeat."""
        if key not in self._reported:
            self._reported.add(key)
            self.report(line)

    # -- memory ----------------------------------------------------------------------------------------------

    def charge_overlay(self, size: int) -> None:
        """Account for overlay bytes.

        Raises OSError(ENOSPC) when mappings and overlay together pass `max_memory`.
        """
        if size > 0 and self.space.total + self.overlay_bytes + size > self.config.max_memory:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.overlay_bytes += size

    # -- files -----------------------------------------------------------------------------------------------

    def file(self, fd: int) -> OpenFile:
        """Return the description of a descriptor that is not O_PATH. Raises OSError(EBADF)."""
        if self.space.shared_files:
            self.space.sync_all()  # what the guest stored through a shared mapping is in the file
        file = self.fds.get(fd)
        if file.flags & abi.O_PATH:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return file

    def path(self, address: int) -> str:
        """Read a path argument. Raises MemoryFault, OSError(ENAMETOOLONG)."""
        raw = self.arena.read_cstr(address, abi.PATH_MAX)
        if len(raw) >= abi.PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return os.fsdecode(raw)

    # -- signals ---------------------------------------------------------------------------------------------

    @property
    def signal_pending(self) -> bool:
        """Whether `deliver_signals` has something to do."""
        return self.signals.wake

    def deliver_signals(self, task: Task, cpu: Cpu) -> Killed | None:
        """Act on deliverable signals: build handler frames, or say that the process is killed."""
        return self.signals.deliver(task, cpu)

    def fault(
        self,
        task: Task,
        cpu: Cpu,
        signo: int,
        si_code: int,
        address: int,
        trapno: int = 0,
        error_code: int = 0,
    ) -> Killed | None:
        """Raise a synchronous signal; the CPU then goes on in the handler, unless the process is killed."""
        return self.signals.force(task, cpu, signo, si_code, address, trapno, error_code)

    def post_host_signal(self, signo: int) -> None:
        """The host sent `emu` a signal: it is the guest's. Called from a Python signal handler."""
        self.signals.post_from_host(signo)
