"""What a process has, and what the system has: the state that the handlers of system calls get.

One piece: a process and the system know each other, so two files would be a circle.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from emu.core.record import NamedTuple
from emu.core.task_events import ThreadNamed
from emu.kernel import abi
from emu.kernel.fs.fdtable import FdTable
from emu.kernel.fs.locks import FileLocks, key_of
from emu.kernel.fs.vfs import FileSystem
from emu.kernel.run.clock import NEVER, Clock
from emu.kernel.run.credentials import Credentials
from emu.kernel.run.entropy import Entropy
from emu.kernel.run.from_host import FromHost
from emu.kernel.run.futex import Futexes
from emu.kernel.run.scheduler import Scheduler
from emu.kernel.run.signal_info import SignalInfo, bit
from emu.kernel.run.signals import Signals
from emu.kernel.run.tasks import Tasks
from emu.kernel.run.timers import Timers
from emu.machine.answers import FEATURES
from emu.machine.features import Features

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.kernel.fs.caller import Caller
    from emu.kernel.fs.file import Inode, OpenFile
    from emu.kernel.fs.notices import Notices
    from emu.kernel.fs.terminal import Terminal
    from emu.kernel.ipc.objects import Ipc
    from emu.kernel.net.network import Network
    from emu.kernel.net.socket_address import InetAddress
    from emu.kernel.run.family import Family, Shares
    from emu.kernel.run.signals import Killed
    from emu.kernel.run.task import Task
    from emu.machine.address_space import AddressSpace
    from emu.machine.budget import Budget
    from emu.machine.engine import Cpu
    from emu.machine.shared_files import SharedFiles

    OnStore = Callable[[int, int, bytes, int], None]

_UNLIMITED = (abi.RLIM_INFINITY, abi.RLIM_INFINITY)
_STACK_LIMIT = 8 << 20
_NOFILE_LIMIT = 1024


class KernelConfig(NamedTuple):
    """What the user decides. `sysroot` and `writable` are host directories, `cwd` is a guest path.

    A writable directory appears at the same path in the guest, and so do those of `shown`, whose changes stay
    in memory. `stdio` are the host descriptors behind 0, 1 and 2 (None: closed). `ignored` are the signals
    that are so from the start. `max_processes` bounds how many processes there are at a time. With
    `writable_as_root` owners and set-id bits reach writable directories on the host though `emu` is root.
    """

    sysroot: str = "/"
    writable: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    cwd: str = "/"
    seed: int = 0
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    stdio: tuple[int | None, int | None, int | None] = (0, 1, 2)
    ignored: tuple[int, ...] = ()
    writable_as_root: bool = False
    cpus: int = 1
    """How many processors the guest sees; its threads run one at a time all the same."""
    max_processes: int = 256
    features: Features = FEATURES
    """The CPU that programs are told of."""


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


class Forge(Protocol):
    """What makes the memory, the CPU and the linker of a process, and lets it run."""

    def fork(self, parent: Kernel, task: Task, family: Family, shares: Shares) -> Kernel:
        """Return the kernel of a new process, a copy of `parent` but for its threads.

        Raises OSError, EmuError.
        """

    def enter(self, child: Kernel, task: Task) -> None:
        """Enter the only thread of a new process, which has its registers."""

    def execute(self, kernel: Kernel, task: Task, program: Executable) -> None:
        """Let another program run in a process, whose other threads are over.

        Raises ExecError while that can still be refused.
        """


class Executable(NamedTuple):
    """What execve is given: the guest path, argv and envp; `by_descriptor`: the path is only a way to an open
    file.
    """

    path: str
    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...]
    by_descriptor: bool = False


class System:
    """What all processes of a run share.

    - `config`: what the user decided
    - `bus`, `report`: where events go; takes a line for the user (an unsupported system call), the caller's
      to set
    - `clock`, `entropy`: virtual time; random bytes from the seed
    - `scheduler`, `futexes`: who of all threads runs, who waits for which word of memory
    - `host`: what the host says to the run
    - `fs`: the guest's tree
    - `shared_files`: the shared mappings of files, and shared memory
    - `budget`: what the memory of all, and the files in memory, may cost
    - `locks`: who has locked which file (flock)
    - `network`: the names of sockets
    - `processes`, `leader`: those that there are, zombies included, by their ids; the first
    - `terminals`: the controlling terminals of sessions
    - `forge`: makes the memory and the CPU of processes
    - `next_id`: the id that the next process or thread gets
    - `next_expiry`: when the next timer of any process is due
    """

    def __init__(
        self,
        config: KernelConfig,
        shared_files: SharedFiles,
        budget: Budget,
        bus: EventBus,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.bus = bus
        self.report: Callable[[str], None] = lambda line: None
        self.clock = clock if clock is not None else Clock()
        self.entropy = Entropy(config.seed)
        self.scheduler = Scheduler(self.clock)
        self.futexes = Futexes()
        self.host = FromHost()
        self.locks = FileLocks()
        self.processes: dict[int, Kernel] = {}
        self.terminals: dict[int, Terminal] = {}
        self.leader: Kernel
        self.forge: Forge
        self.next_expiry = NEVER
        self.next_id = abi.PID
        self.budget = budget
        self.shared_files = shared_files
        self.fs = FileSystem(
            config.sysroot,
            lambda: self.clock.realtime,
            budget.hold,
            config.uid,
            config.gid,
            config.groups,
        )
        self.fs.on_store, self.fs.on_resize = self._stored, self._resized
        self._reported: set[str] = set()

    @cached_property
    def network(self) -> Network:
        """The names of sockets; made when the first one is."""
        from emu.kernel.net.network import Network

        return Network(
            self.fs, lambda: self.running.sender(), lambda: self.running.identity(), self._tell_unreachable
        )

    @cached_property
    def ipc(self) -> Ipc:
        """What processes share by keys and names; made when it is first asked for."""
        from emu.kernel.ipc.objects import Ipc

        return Ipc()

    @property
    def running(self) -> Kernel:
        """Return the process whose task runs."""
        return self.processes[self.scheduler.current.pid]

    def make_processes_by(self, forge: Forge) -> None:
        """Have `forge` make the memory and the CPU of processes."""
        self.forge = forge

    def new_id(self) -> int:
        """Return an id that no process or thread has had."""
        self.next_id += 1
        return self.next_id - 1

    # -- time ------------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        """Do what is due: timers send their signals, waits end at their deadlines."""
        if self.clock.now >= self.next_expiry:
            for process in list(self.processes.values()):
                if self.clock.now >= process.timers.next_expiry:
                    process.timers.expire()
        self.scheduler.expire()
        self.plan()

    def plan(self) -> None:
        """Set the clock's alarm to the next thing that is due."""
        self.next_expiry = min(process.timers.next_expiry for process in self.processes.values())
        self.clock.alarm = min(self.next_expiry, self.scheduler.next_deadline)

    # -- the user --------------------------------------------------------------------------------------------

    def report_to(self, report: Callable[[str], None]) -> None:
        """Hand `report` each line for the user from now on."""
        self.report = report

    def report_once(self, key: str, line: str) -> None:
        """Tell the user something that would otherwise repeat."""
        if key not in self._reported:
            self._reported.add(key)
            self.report(line)

    def _tell_unreachable(self, address: InetAddress) -> None:
        """Tell the user, once for each host, of an address outside of the guest's own network."""
        line = f"emu: {address} is out of reach: a program sees only its own loopback network, never the host's (emu help limits)"
        self.report_once(f"host {address.host!r}", f"{line}; it was told ENETUNREACH")

    def post_host_signal(self, signo: int) -> None:
        """The host sent `emu` a signal: it is the guest's. Called from a Python signal handler."""
        running = self.processes.get(self.scheduler.current.pid)
        if running is not None:
            running.signals.wake = True
        self.host.post(signo)

    def take_from_host(self) -> None:
        """Send the guest what the host has sent: the terminal's signal to every process of the first one's
        group, another to that one.
        """
        for signo in self.host.take():
            typed = signo == abi.SIGINT
            info = SignalInfo(signo, abi.SI_KERNEL if typed else abi.SI_USER)
            for process in list(self.processes.values()) if typed else [self.leader]:
                if process.family.status is None and process.family.group == self.leader.family.group:
                    process.signals.send(info)

    def caller(self) -> tuple[int, int]:
        """Return process group and session of the process that runs (`emu.kernel.fs.pty.Jobs`)."""
        family = self.running.family
        return family.group, family.session

    def terminal(self) -> Terminal | None:
        """Return the controlling terminal of the session that runs, None where the guest has made none."""
        return self.terminals.get(self.running.family.session)

    def signal_group(self, group: int, signo: int) -> None:
        """Send a terminal's signal to all of a process group."""
        for process in list(self.processes.values()):
            if process.family.group == group and process.family.status is None:
                process.signals.send(SignalInfo(signo, abi.SI_KERNEL))

    def session_of(self, group: int) -> int | None:
        """Return the session of a process group, None if there is no such group."""
        members = (process.family for process in self.processes.values())
        return next((family.session for family in members if family.group == group), None)

    def refuses(self, signo: int) -> bool:
        """Whether the thread that runs ignores or blocks a signal, or its group is an orphan."""
        ignored = self.running.signals.actions[signo].handler == abi.SIG_IGN
        return ignored or bool(self.scheduler.current.mask & bit(signo)) or self.running.orphaned()

    def controls(self, session: int, terminal: Terminal | None) -> None:
        """A session has a controlling terminal now, or (None) none any more."""
        self.terminals.pop(session, None)
        if terminal is not None:
            self.terminals[session] = terminal

    # -- files and memory ------------------------------------------------------------------------------------

    def watch_files(self) -> Notices:
        """Return who tells of what happens to files, from now on."""
        return self.fs.watch(self._is_open)

    def _is_open(self, key: tuple[int, int]) -> bool:
        """Whether some process has an inode open, or works in it."""
        for process in self.processes.values():
            files = (f for f in process.fds.files.values() if f.inode is not None)
            if process.family.status is None and key_of(process.caller.cwd) == key:
                return True
            if any(key_of(file) == key for file in files):
                return True
        return False

    def sync_all(self) -> None:
        """Write every shared mapping of a file back to it."""
        for process in self.processes.values():
            process.space.sync_all()

    def _stored(self, dev: int, ino: int, data: bytes, offset: int) -> None:
        """Bytes were written to a file: mappings that share it show them."""
        for process in self.processes.values():
            process.stored(dev, ino, data, offset)

    def _resized(self, dev: int, ino: int) -> None:
        for process in self.processes.values():
            process.space.file_resized(dev, ino)


class Kernel:
    """The state of one process, with the system that it is part of at hand:
    what handlers of system calls get.

    `emu.kernel.boot` makes the first one, in a system that has /dev, /proc and standard files.

    - `system`: what all processes share; `config`, `bus`, `clock`, `entropy`, `scheduler`, `futexes`, `fs`
      and `locks` are its own
    - `family`: its id, and what ties it to other processes
    - `space`, `arena`: the address space, and the memory behind it
    - `cpu`: the CPU at the latest system call
    - `stored`: is told of bytes that were written to a file, for the mappings of it
    - `tasks`: the threads
    - `leader_status`: the exit status of the main thread, once it has ended
    - `signals`, `timers`: dispositions and pending signals; alarms, interval and POSIX timers
    - `caller`: the working directory, umask and ids with which it looks at files
    - `fds`: the descriptor table
    - `credentials`, `rlimits`: user, groups and capabilities; (soft, hard) by RLIMIT_*
    - `program`: what /proc/self tells of the program
    - `brk_start`, `brk`: where the heap begins and ends
    - `dumpable`, `personality`, `no_new_privs`, `death_signal`: what prctl and personality have set
    """

    def __init__(self, system: System, space: AddressSpace, family: Family, caller: Caller) -> None:
        self.system, self.family = system, family
        self.config, self.bus, self.clock, self.entropy = (
            system.config,
            system.bus,
            system.clock,
            system.entropy,
        )
        self.scheduler, self.futexes, self.fs, self.locks = (
            system.scheduler,
            system.futexes,
            system.fs,
            system.locks,
        )
        self.space = space
        self.arena = space.arena
        self.cpu: Cpu
        self.stored: OnStore = lambda dev, ino, data, offset: None
        self.tasks = Tasks()
        self.leader_status = 0
        self.caller = caller
        self.credentials = Credentials(caller.uid, caller.gid)
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
        self.signals = Signals(space.arena, self.tasks, self.scheduler, system.host)
        self.timers = Timers(self.clock, self.signals, system.plan)
        self.signals.on_job = self._job_changed
        self._cpu = self._cpu_since = 0
        system.processes[family.pid] = self

    def use(self, space: AddressSpace, cpu: Cpu, stored: OnStore) -> None:
        """Serve this memory and this CPU from now on;
        `stored` is told of bytes that were written to a file (see `FileSystem.on_store`).
        """
        self.space, self.arena, self.cpu, self.stored = space, space.arena, cpu, stored
        self.signals.use(self.arena)

    @property
    def pid(self) -> int:
        """Its id."""
        return self.family.pid

    @property
    def network(self) -> Network:
        """The names of sockets."""
        return self.system.network

    def sender(self) -> tuple[int, int, int]:
        """Return process id, real user and real group: who a message comes from."""
        return self.pid, self.credentials.users.real, self.credentials.groups.real

    def identity(self) -> tuple[int, int, int]:
        """Return process id, effective user and effective group: who SO_PEERCRED tells of."""
        return self.pid, self.credentials.users.effective, self.credentials.groups.effective

    # -- tasks -----------------------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        """Enter a task; the first is the main thread."""
        self.tasks.add(task)

    @property
    def cpu_used(self) -> int:
        """How long the process has run, in nanoseconds."""
        running = self.pid == self.scheduler.current.pid and self.family.status is None
        return self._cpu + (self.clock.cpu - self._cpu_since if running else 0)

    def begin_running(self) -> None:
        """Another process ran; this one does now: files are looked at with its ids, time is its own."""
        self._cpu_since = self.clock.cpu
        self.fs.caller = self.caller
        self.timers.go_on()

    def stop_running(self) -> None:
        """Another process is to run."""
        self._cpu += self.clock.cpu - self._cpu_since
        self._cpu_since = self.clock.cpu
        self.timers.rest()

    def cpu_time(self, task: Task) -> int:
        """Return how long a task has run, in nanoseconds."""
        running = task is self.scheduler.current
        return task.cpu + (self.clock.cpu - task.cpu_since if running else 0)

    def rename(self, task: Task, name: bytes) -> None:
        """Give a task a name, of which Linux keeps 15 bytes."""
        task.name = name[:15].decode("utf-8", "surrogateescape")
        if self.bus.threads:
            self.bus.emit(ThreadNamed(task.tid, task.name))

    # -- the parent ------------------------------------------------------------------------------------------

    def tell_parent(self, signo: int, code: int, value: int) -> None:
        """Send the parent a signal about this process: si_code and the number that goes with it;
        its waits look again.
        """
        parent = self.system.processes.get(self.family.parent)
        if parent is None or parent.family.status is not None:
            return
        if 0 < signo <= abi.NSIG:  # clone takes any byte, and one that is no signal is none
            parent.signals.send(SignalInfo(signo, code, self.pid, self.credentials.users.real, value=value))
        for task in parent.family.waiters:
            self.scheduler.wake(task)

    def alone(self) -> bool:
        """Whether there is no other process."""
        return len(self.system.processes) == 1

    def orphaned(self) -> bool:
        """Whether no member of the process's group has a parent in another group of the same session.

        Source: setpgid(2).
        """
        own, processes = self.family, self.system.processes
        living = (process.family for process in processes.values() if process.family.status is None)
        for member in (family for family in living if family.group == own.group):
            parent = processes.get(member.parent)
            if parent is None:
                if member.parent == abi.PPID and member.session == abi.SID:
                    return False
            elif parent.family.group != own.group and parent.family.session == member.session:
                return False
        return True

    def _job_changed(self) -> None:
        """The process was stopped, or goes on."""
        stopped = self.signals.stopped
        self.family.news = "stopped" if stopped else "continued"
        parent = self.system.processes.get(self.family.parent)
        quiet = parent is None or parent.signals.actions[abi.SIGCHLD].flags & abi.SA_NOCLDSTOP
        code = abi.CLD_STOPPED if stopped else abi.CLD_CONTINUED
        self.tell_parent(0 if quiet else abi.SIGCHLD, code, stopped or abi.SIGCONT)

    # -- the user --------------------------------------------------------------------------------------------

    def refuse(self, what: str, error: int = errno.ENOSYS, why: str = "") -> int:
        """Tell the user, once, that a system call is not supported, and `why` or what else to do;
        return what the guest is told.
        """
        line = f"emu: syscall {what} is not supported; the program was told {errno.errorcode[error]}"
        line += f": {why}" if why else ""
        self.report_once(f"system call {what}", line)
        return -error

    def report_once(self, key: str, line: str) -> None:
        """Tell the user something that would otherwise repeat."""
        self.system.report_once(key, line)

    # -- files -----------------------------------------------------------------------------------------------

    def file(self, fd: int) -> OpenFile:
        """Return the description of a descriptor that is not O_PATH. Raises OSError(EBADF)."""
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
        return self.signals.deliver(task, cpu, self.program.exe, self)

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
