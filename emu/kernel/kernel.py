"""The kernel of one process: its state, and the dispatch of system calls."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from emu.core.effects import Exit, RegistersSet
from emu.core.errors import MemoryFault
from emu.core.events import ThreadExited, ThreadNamed
from emu.kernel import abi, formats
from emu.kernel.clock import TICK_NS, Clock
from emu.kernel.credentials import Credentials
from emu.kernel.devices import mount_devices
from emu.kernel.entropy import Entropy
from emu.kernel.fdtable import FdTable
from emu.kernel.futex import Futexes
from emu.kernel.hostfile import HostFile
from emu.kernel.locks import FileLocks
from emu.kernel.names import syscall_name
from emu.kernel.passthrough import mount_writable
from emu.kernel.procfs import mount_proc
from emu.kernel.scheduler import Scheduler
from emu.kernel.signals import Interrupted, Signals
from emu.kernel.syscalls import find
from emu.kernel.syscalls.futex import release
from emu.kernel.table import TABLE
from emu.kernel.timers import Timers
from emu.kernel.vfs import FileSystem
from emu.kernel.waiting import BLOCKED, Blocked, PendingCall

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.kernel.inodes import Inode
    from emu.kernel.network import Network
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
    and overlay together. `stdio` are the host descriptors behind 0, 1 and 2 (None: closed). `ignored` and `blocked` are the
    signals that are so from the start, a tuple and a mask, `nice` is the main thread's nice value.
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
    ignored: tuple[int, ...] = ()
    blocked: int = 0
    nice: int = 0
    hwcap: int = 0x078B_FBFD
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
        self.leader: Task
        self.scheduler = Scheduler(self)
        self.futexes = Futexes()
        self.next_tid = abi.PID + 1
        self.leader_status = 0
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
        self.credentials = Credentials(config.uid, config.gid)
        self.locks = FileLocks()
        self.fds = FdTable(_NOFILE_LIMIT, self.locks)
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
            flags = fcntl.fcntl(host, fcntl.F_GETFL)
        except OSError:
            return  # started with this descriptor closed: so is the guest's
        if flags & os.O_PATH:
            return  # it was closed, and `emu` keeps its number from other files
        self.fds.install(HostFile(host), fd=number)

    @cached_property
    def network(self) -> Network:
        """The names of sockets; made when the first one is."""
        from emu.kernel.network import Network

        return Network(self)

    # -- tasks -----------------------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        """Enter a task; the first is the main thread, and runs."""
        if not self.tasks:
            self.leader = self.scheduler.current = task
            task.mask, task.nice = self.config.blocked, self.config.nice
        self.tasks[task.tid] = task

    def end_task(self, task: Task, status: int) -> bool:
        """A task is over; return whether it was the last. Source: Linux kernel/exit.c:do_exit."""
        if task is self.leader:
            self.leader_status = status
        del self.tasks[task.tid]
        if self.bus.threads:
            self.bus.emit(ThreadExited(task.tid, task.name, status))
        if self.tasks:
            self.signals.pass_on(abi.U64)
            release(self, task)
        return not self.tasks

    def cpu_time(self, task: Task) -> int:
        """Return how long a task has run, in nanoseconds."""
        running = task is self.scheduler.current
        return task.cpu + (self.clock.cpu - task.cpu_since if running else 0)

    def rename(self, task: Task, name: bytes) -> None:
        """Give a task a name, of which Linux keeps 15 bytes."""
        task.name = name[:15].decode("utf-8", "surrogateescape")
        if self.bus.threads:
            self.bus.emit(ThreadNamed(task.tid, task.name))

    # -- system calls ----------------------------------------------------------------------------------------

    def syscall(self, task: Task, cpu: Cpu, number: int, args: tuple[int, ...]) -> Result | Blocked:
        """Serve system call `number` with six argument registers; return the value for rax or an effect, or BLOCKED: then
        `resume` is to be called when the task runs again.
        """
        clock = self.clock
        clock.now += TICK_NS
        if clock.now >= clock.alarm:
            self.pass_time()
        entry = TABLE.get(number & abi.U32) or find(number & abi.U32)
        if entry is None:
            return self._unknown(number)
        self.cpu = cpu
        call = args[: entry.arity]
        if entry.narrow:
            narrowed = list(call)
            for index, mask, sign in entry.narrow:
                narrowed[index] = ((narrowed[index] & mask) ^ sign) - sign
            call = tuple(narrowed)
        texts = formats.before(self, entry, call) if self.bus.syscalls else None
        try:
            result = entry.handler(self, task, *call)
        except (OSError, MemoryFault) as error:
            result = self._failed(task, entry, error)
        if not isinstance(result, (int, Exit, RegistersSet)):
            return self._advance(task, PendingCall(entry, result, call, texts))
        if texts is not None:
            self.bus.emit(formats.event(self, entry, call, texts, result))
        return result

    def resume(self, task: Task) -> Result | Blocked:
        """Go on with a task's system call whose wait is over."""
        call = task.call
        assert call is not None
        for file in task.held:
            self.fds.release(file)
        result = self._advance(task, call)
        task.resumed = False
        return result

    def _advance(self, task: Task, call: PendingCall) -> Result | Blocked:
        result: Result
        try:
            block = call.handler.send(None)
        except StopIteration as stop:
            result = stop.value
        except (OSError, MemoryFault) as error:
            result = self._failed(task, call.entry, error)
        else:
            task.call, task.again = call, block.again
            task.held = tuple(file for file, _ in block.files)
            for file in task.held:
                file.references += 1
            self.scheduler.block(task, block)
            return BLOCKED
        task.call = task.again = None
        task.held = ()
        if call.texts is not None:
            self.bus.emit(formats.event(self, call.entry, call.arguments, call.texts, result))
        return result

    def _failed(self, task: Task, entry: Entry, error: OSError | MemoryFault) -> int:
        """Return what the guest is told of a failure."""
        if isinstance(error, MemoryFault):
            return -errno.EFAULT
        if isinstance(error, Interrupted):
            if error.restart:
                task.interrupted = entry.number
                task.restart_always = error.always
            return -errno.EINTR
        return -(error.errno or errno.EIO)

    def pass_time(self) -> None:
        """Do what is due: timers send their signals, waits end at their deadlines."""
        if self.clock.now >= self.timers.next_expiry:
            self.timers.expire()
        self.scheduler.expire()
        self.plan()

    def plan(self) -> None:
        """Set the clock's alarm to the next thing that is due."""
        self.clock.alarm = min(self.timers.next_expiry, self.scheduler.next_deadline)

    def _unknown(self, number: int) -> int:
        name = syscall_name(number & abi.U32)
        if self.bus.syscalls:
            self.bus.emit(formats.unknown(number & abi.U32, name))
        return self.refuse(f"{name} ({number & abi.U32})")

    def refuse(self, what: str, error: int = errno.ENOSYS) -> int:
        """Tell the user, once, that a system call is not supported; return what the guest is told."""
        line = f"emu: syscall {what} is not supported; the program was told {errno.errorcode[error]}"
        self.report_once(f"system call {what}", line)
        return -error

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
