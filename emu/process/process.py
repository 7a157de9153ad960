"""One process from its program file to its end.

One piece: the phases of one life. Making the linker is in `linking`, judging the end in `ending`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.core.errors import (
    UNFORESEEN,
    ElfError,
    EmuError,
    ExecError,
    LinkError,
    LoaderError,
    MemoryFault,
    NoRoomError,
    RunTimeout,
    UnsupportedError,
)
from emu.elf import constants as c
from emu.kernel.boot import boot
from emu.kernel.exec import MissingInterpreterError, load_program
from emu.kernel.idle import Deadlock, HostStop
from emu.kernel.run.task import Task
from emu.kernel.vdso import build_vdso
from emu.machine import regs
from emu.machine.address_space import AddressSpace
from emu.machine.aliases import Aliases
from emu.machine.arena import LATER, SIZES, Arena
from emu.machine.budget import Budget
from emu.machine.engine import Cpu, CpuException, Guarded, InstructionError, PageFault, Stopped
from emu.machine.engines import make_cpu
from emu.process import hosting
from emu.process.backtrace import Backtraces, Captured, FrameInfo
from emu.process.config import Result, RunConfig, kernel_config
from emu.process.debugging import Debugging
from emu.process.ending import ProcessEnding
from emu.process.engine_choice import engine_for
from emu.process.file_images import FileImages
from emu.process.hostsignals import HostSignals
from emu.process.link_error import link_error, no_room
from emu.process.linking import linkers_environment, make_linker, map_objects, program_name
from emu.process.notes import KeptNotes, say
from emu.process.runner import Runner
from emu.process.symbols import Symbols
from emu.process.sysroots import check_sysroot
from emu.process.tree import Tree
from emu.rtld.given import VersionErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from emu.core.events import EventBus
    from emu.glibc.contract import Contract
    from emu.kernel.exec import ExecImage, Loaded
    from emu.kernel.kernel import Executable, Kernel
    from emu.process.rendezvous import Rendezvous
    from emu.rtld.rtld import Rtld

_DEFAULT_MEMORY = 4 << 30
_RIP = regs.GPRS.index(regs.RIP)
_HOST_CPU = "--engine kvm executes it on the host's CPU"


class Process:
    """A program and everything around it.

    `load` maps it, `start` links it, `run` runs it; each does what comes before it.

    - `config`, `bus`: how it is to run; where events go
    - `arena`, `cpu`, `space`, `kernel`: its memory, CPU, address space and kernel
    - `task`: the main thread
    - `rtld`, `contract`: the linker and its view by libc, None for a static program and for one under its own
      ld.so
    - `loaded`: what the kernel mapped, None before
    - `runner`: interprets its effects, None before it runs
    - `rendezvous`: follows the program's own ld.so, if that is wanted
    - `ended`: the exit code of one that ld.so was only asked to look at
    - `guarded`: the access to a guarded page that `advance` has stopped before, None if it stopped for
      another reason
    - `images`, `symbols`, `backtraces`: files behind mappings; names for addresses; the frames of threads
    - `ending`: what becomes of faults, and how the process ended
    - `tree`: the processes of the run
    - `debugging`: its LD_DEBUG, None without

    `describe_caller` names the place of a call by its return address, in events; without one it is the
    guest's.
    """

    def __init__(
        self, config: RunConfig, bus: EventBus, describe_caller: Callable[[int], str] | None = None
    ) -> None:
        self.config, self.bus, self.describe_caller = config, bus, describe_caller
        self._engine = engine_for(config, Process, say)
        self._budget = Budget(
            config.max_memory or _DEFAULT_MEMORY,
            overcommit=config.max_memory is None,
            on_refusal=lambda size, told: self.ending.out_of_memory(size, told),
        )
        self.arena, cpu = self.new_machine()
        self.space = AddressSpace(self.arena, on_change=cpu.before_change)
        self.kernel = boot(kernel_config(config, cpu.features), self.space, bus)
        system = self.kernel.system
        system.clock.realtime_offset = config.start_time
        self._notes = KeptNotes(config.verbose)
        system.report_to(self._notes.keep)
        self.task = system.scheduler.current = Task(self.kernel.pid, os.path.basename(config.program)[:15])
        self.task.mask, self.task.nice = config.blocked, config.nice
        self.kernel.add_task(self.task)
        if config.policy is not None:
            system.scheduler.decide_by(config.policy)
        bus.time_by(lambda: system.clock.monotonic)
        bus.task = self.task.tid
        self.tree = Tree(self)
        system.make_processes_by(self.tree)
        self._halted = self._stuck = False
        self._furnish(cpu)

    def _furnish(self, cpu: Cpu) -> None:
        """Take a CPU over the memory that there is, and make all that knows a program,
        of which there is none yet.
        """
        self.cpu = cpu
        self.cpu.count_cycles_by(lambda: self.kernel.clock.monotonic * 3)
        self._aliases = Aliases(self.space, self.cpu)
        self.occupy()
        self.rtld: Rtld | None = None
        self.contract: Contract | None = None
        self.loaded: Loaded | None = None
        self.ended: int | None = None
        self.images = FileImages(self.space)
        self.rendezvous: Rendezvous | None = None
        self.symbols = Symbols(self, self.config.sysroot)
        self.backtraces = Backtraces(self)
        self.ending = ProcessEnding(self)
        self.runner: Runner | None = None
        self._thread_pointer = self.cpu.batch((regs.FS_BASE,))
        self.guarded: Guarded | None = None
        self.debugging: Debugging | None = None

    def occupy(self) -> None:
        """Let the kernel have this memory and this CPU."""
        self.kernel.use(self.space, self.cpu, self._aliases.stored)

    # -- more of them ----------------------------------------------------------------------------------------

    def new_machine(self, sizes: Sequence[int] = SIZES) -> tuple[Arena, Cpu]:
        """Return memory in which nothing is mapped, and a CPU over it, for a process of this run.

        `sizes`: see `Arena`. Raises NoRoomError.
        """
        arena = Arena(self._budget, sizes)
        return arena, make_cpu(arena, self._engine, self.config.cpu)

    def twin(self, kernel: Kernel) -> Process:
        """Return the process of a child that has the same memory and the same CPU."""
        twin = object.__new__(Process)
        twin.__dict__.update(self.__dict__)
        twin.kernel = kernel
        twin.ending = ProcessEnding(twin)
        twin.make_runner()
        assert self.runner is not None
        self.runner.serve()  # the CPU is the parent's until the child has its first turn
        return twin

    def blank(self, kernel: Kernel, cpu: Cpu) -> Process:
        """Return the process of a child that has its own memory, mapped already, and no linker yet."""
        child = object.__new__(Process)
        child.config, child.bus, child.describe_caller = self.config, self.bus, self.describe_caller
        child._budget, child._notes, child._engine = self._budget, self._notes, self._engine
        child.arena, child.space, child.kernel, child.tree = kernel.arena, kernel.space, kernel, self.tree
        child.task = self.task
        child._halted = child._stuck = False
        child._furnish(cpu)
        child.loaded = self.loaded
        return child

    @property
    def number(self) -> int:
        """The process's id in events: 0 for the first."""
        kernel = self.kernel
        return 0 if kernel is kernel.system.leader else kernel.pid

    def make_runner(self) -> None:
        """Make what interprets effects, for a CPU that stands still."""
        self.runner = Runner(self.cpu, self.kernel, self.contract, self.tree, self.ending.hosted_fault)

    def renew(self, program: Executable) -> None:
        """Map another program, in new memory and with a new CPU. Raises ExecError;
        then the attributes are the caller's to put back.
        """
        argv, envp = program.argv, program.envp
        env = dict(os.fsdecode(text).split("=", 1) for text in envp if b"=" in text)
        self.config = self.config._replace(
            program=program.path, args=tuple(map(os.fsdecode, argv[1:])), env=env, argv0=os.fsdecode(argv[0]), image=None,
            library="", keep_going=False,
        )  # fmt: skip
        try:
            self.arena, cpu = self.new_machine(LATER if self.number else SIZES)
        except NoRoomError as error:
            raise ExecError(str(error), errno.ENOMEM) from None
        old = self.space
        self.space = AddressSpace(self.arena, old.shared_files, cpu.before_change)
        self.space.limit = old.limit
        self._furnish(cpu)
        try:
            self.loaded = load_program(self.kernel, program.path, list(argv), list(envp), build_vdso())
        except OSError as error:
            raise ExecError(f"{program.path}: {error.strerror}", error.errno or errno.ENOMEM) from None

    def close(self) -> None:
        """The process is over: its engine goes, unless it is another's as well."""
        others = (other for other in self.tree.processes.values() if other is not self)
        if not any(other.cpu is self.cpu for other in others):
            self.cpu.close()

    # -- phases ----------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Map the program and all that it needs; check versions. No guest code runs. Raises EmuError."""
        if self.loaded is not None:
            return
        config = self.config
        argv = [os.fsencode(config.argv0 or config.program), *map(os.fsencode, config.args)]
        envp = [os.fsencode(f"{name}={value}") for name, value in config.env.items()]
        try:
            loaded = load_program(
                self.kernel, config.program, argv, envp, build_vdso(), config.image, listed=config.keep_going
            )
        except OSError as error:
            raise no_room(config, error) from None
        except MissingInterpreterError:
            check_sysroot(config.sysroot)
            raise
        self.loaded = loaded
        self.link()

    def link(self) -> None:
        """Let the linker map what the program needs, or follow its own. Raises EmuError."""
        loaded, config = self.loaded, self.config
        assert loaded is not None
        if loaded.interpreter is not None and config.ldso == "emu":
            check_sysroot(config.sysroot)
            self._link(loaded, loaded.interpreter)
            if config.image is not None:
                hosting.attach(self)
        elif config.ldso == "real":
            linker = loaded.interpreter or loaded.program  # ld.so may be run as a command
            if any(phdr.type == c.PT_DYNAMIC for phdr in linker.phdrs):
                from emu.process.rendezvous import Rendezvous

                self.rendezvous = Rendezvous(self, linker)

    def _link(self, loaded: Loaded, interpreter: ExecImage) -> None:
        """Let the dynamic linker map what the program needs, as the LD_* variables ask for."""
        env, name = linkers_environment(self, loaded), program_name(self)
        self.debugging = Debugging(self.kernel, env, name, loaded.program.path, self.task.tid, interpreter)
        if self.debugging.helped:
            self.ended = 0
            return
        self.debugging.attach(self.bus)
        self.rtld, self.contract = make_linker(self, loaded, env, self.debugging)
        map_objects(self, self.contract, loaded, interpreter)
        if self.rtld.trace:
            from emu.glibc.ld_trace import list_objects

            self.ended = list_objects(self.rtld, self.config.env, self.debugging.write)

    def start(self) -> None:
        """Link the program: TLS, relocation, IFUNCs. Stops before the first constructor. Raises EmuError.

        A program's own ld.so runs as far as the program's entry point: past the constructors of the
        libraries.
        """
        self.load()
        if self.rendezvous is not None and self.loaded is not None and self.loaded.interpreter is not None:
            self._start_real()
        if self.contract is None or self.ended is not None:
            return
        contract = self.contract

        def link_only(_contract: Contract, _call: object):  # type: ignore[no-untyped-def]
            yield from contract.link()
            self.halt()
            return 0

        contract.traps[contract.start_stub] = link_only
        self.begin(contract.start_stub)
        with HostSignals(self.kernel, self.tree, self.config.timeout, self.config.die) as host:
            self.advance(host)

    def _start_real(self) -> None:
        assert self.loaded is not None
        self.cpu.watch(self.loaded.program.entry, self.halt)
        self.begin()
        with HostSignals(self.kernel, self.tree, self.config.timeout, self.config.die) as host:
            self.advance(host)
        assert self.runner is not None
        if self.runner.ended is not None:
            ended = self.ending.result()
            raise LinkError(
                ended.report or f"{self.config.program}: its ld.so ended with {ended.status}", ended.status
            )

    def run(self, begun: Callable[[], None] = lambda: None) -> Result:
        """Run the program to its end; `begun` is called before its first instruction.

        Raises EmuError for what ends the run without being the guest's doing.
        """
        try:
            self.load()
            if self.ended is not None:
                return Result(self.ended)
            self.begin()
            begun()
            with HostSignals(self.kernel, self.tree, self.config.timeout, self.config.die) as host:
                while self.runner is None or self.runner.ended is None:
                    self.advance(host)
        except EmuError:
            self._notes.tell()
            raise
        return self.finish()

    def begin(self, address: int | None = None) -> None:
        """Make ready to run from `address`, the program's start if it is not given. Raises EmuError."""
        self.load()
        assert self.loaded is not None
        if address is None:
            address = self.contract.start_stub if self.contract is not None else self.loaded.start
        self.make_runner()
        self.cpu.set(regs.RSP, self.loaded.stack_pointer)
        self.cpu.set(regs.RDX, 0)
        self.cpu.set(regs.RIP, address)

    def halt(self) -> None:
        """Make `advance` return where the guest is now. For use in hooks and handlers."""
        self._halted = True
        self.tree.stop()

    def stay(self) -> None:
        """Make `advance` return before the trap at hand, which comes again when the run goes on.

        For use in place of its handler.
        """
        self.cpu.set(regs.RIP, self.cpu.trap[_RIP])
        self.halt()

    @property
    def stuck(self) -> bool:
        """Whether `advance` has returned while every thread waits, be it that the host broke a wait off."""
        return self._stuck

    def advance(self, host: HostSignals | None = None) -> None:
        """Run on until the process ends (`runner.ended`), a hosted function
        pauses (`runner.paused`) or `halt` is called.

        A hosted function that has paused is resumed first; after a deadlock another thread runs. Raises
        EmuError for what is not the guest's doing.
        """
        runner = self.tree.running.runner
        assert runner is not None
        halted, self._halted = self._halted, False
        self.guarded = None
        try:
            if runner.paused:
                runner.go_on()
                if not self._over:
                    runner.attend()
            elif self._stuck:
                self._stuck = False
                runner.run_next()
            elif halted and not self._over:
                runner.attend_if_due()  # the CPU may have been about to stop for this, too
            self.tree.settle()
            while not self._over:
                self._go(self.tree.running, host)
                self.tree.settle()
                if not self._over and self.tree.running.runner is not None:
                    self.tree.running.runner.attend()
                    self.tree.settle()  # who is to run may have been killed before it could
        except InstructionError as error:
            where = self.tree.running.symbols.where(error.address)
            raise UnsupportedError(error.name, where, f"{error.why}; {_HOST_CPU}") from None
        except (LoaderError, ElfError, VersionErrors) as error:
            raise link_error(program_name(self), error) from None
        except Deadlock:
            self._stuck = True
            from emu.process.deadlock import DeadlockError, report

            raise DeadlockError(report(self)) from None
        except HostStop:
            if host is None:
                self._stuck = True  # as after a deadlock: who waits goes on waiting
                return
            raise RunTimeout(
                f"{self.config.program}: stopped after {self.config.timeout or 0:g} s (--timeout)"
            ) from None

    @property
    def _over(self) -> bool:
        """Whether `advance` is to return: at the end of the process, or where a
        hosted function or `halt` stops it.
        """
        runner = self.runner
        return runner is None or runner.ended is not None or runner.paused or self._halted

    def _go(self, process: Process, host: HostSignals | None) -> None:
        """Let the process that is to run do so, up to the next stop of its CPU."""
        runner = process.runner
        assert runner is not None
        try:
            outcome = process.cpu.run(process.cpu.get(regs.RIP))
        except (MemoryFault, *UNFORESEEN) as error:  # a hook's
            runner.fault(error)
            outcome = Stopped()
        if host is not None and host.timed_out and not self._over:
            raise HostStop
        if isinstance(outcome, Guarded):
            self.guarded, self._halted = outcome, True
        elif runner.ended is None and isinstance(outcome, (PageFault, CpuException)):
            process.ending.fault(outcome, runner)

    def finish(self) -> Result:
        """Return how the process ended, after what is due at its end."""
        assert self.runner is not None
        self.tree.end_rest()
        self.kernel.scheduler.policy.finish()
        self.space.sync_all()
        result = self.ending.result()
        if result.status:
            self._notes.tell()
        return result

    def backtrace(self, task: Task | None = None) -> list[FrameInfo]:
        """Return the frames of the running thread, or of another, the innermost first.

        For use in hosted functions and after a fault.

        It says what it can: a stack that is corrupt ends the list, and the last frame's `note` says why.
        Raises EmuError for a thread that has ended.
        """
        return self.backtraces.frames(task)

    def capture(self, task: Task | None = None, *, pc: int = 0) -> list[Captured]:
        """Return the frames of the running thread, or of another, with functions and lines unread;
        `resolve` reads them, even after their objects have gone.

        `pc` is where the running thread is, if the CPU does not know it exactly. Raises EmuError for a thread
        that has ended.
        """
        return self.backtraces.capture(task, pc=pc)

    def resolve(self, captured: Iterable[Captured]) -> list[FrameInfo]:
        """Return captured frames as `backtrace` does."""
        return self.backtraces.resolve(captured)

    # -- details ---------------------------------------------------------------------------------------------

    def thread_pointer(self) -> int:
        """Return the running thread's fs base."""
        self._thread_pointer.read()
        return self._thread_pointer.values[0]

    def forget(self, start: int, end: int) -> None:
        """Drop what is known of the object in [start, end), which goes."""
        self.symbols.forget(start, end)
        self.backtraces.forget(start)
