"""One process from its program file to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.effects import Exit, without_guest
from emu.core.errors import ElfError, EmuError, LoaderError, RunTimeout, UnsupportedError
from emu.core.events import Fault
from emu.glibc.contract import Contract
from emu.glibc.cxa_thread_atexit_impl import Observer
from emu.glibc.ld_debug import UNUSED
from emu.glibc.ld_trace import list_objects
from emu.kernel.exec import load_program
from emu.kernel.kernel import Kernel, KernelConfig
from emu.kernel.scheduler import Deadlock, HostStop
from emu.kernel.task import Task
from emu.kernel.vdso import build_vdso
from emu.machine import regs
from emu.machine.address_space import AddressSpace
from emu.machine.aliases import Aliases
from emu.machine.arena import Arena
from emu.machine.cpu import Cpu, CpuException, PageFault
from emu.machine.special import InstructionError
from emu.process.backtrace import Backtraces, Captured, FrameInfo, render
from emu.process.config import Result, RunConfig
from emu.process.deadlock import DeadlockError, report
from emu.process.debugging import Debugging
from emu.process.faults import describe_fault, to_signal
from emu.process.hostsignals import HostSignals
from emu.process.images import map_of_vdso, mapped, start_info
from emu.process.link_error import link_error
from emu.process.runner import Runner
from emu.process.symbols import Symbols
from emu.rtld.rtld import Rtld, VersionErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.core.events import EventBus
    from emu.glibc.cxa_thread_atexit_impl import ThreadAtexit
    from emu.kernel.exec import Loaded
    from emu.kernel.exec import MappedImage as KernelImage
    from emu.rtld.link_map import LinkMap

_PID = 1000
_DEFAULT_MEMORY = 4 << 30
_GLIBC_NAMES = {
    "start": "_dl_start", "fini": "_dl_fini", "resolve": "_dl_runtime_resolve", "operate": "_dl_catch_exception",
    "profile": "_dl_profile_fixup", "pltexit": "_dl_audit_pltexit",
}  # fmt: skip
"""What the linker's own stubs stand for."""


class Process:
    """A program and everything around it. `load` maps it, `start` links it, `run` runs it; each does what comes before it.

    `ended` is the exit code of one that ld.so was only asked to look at.
    """

    def __init__(self, config: RunConfig, bus: EventBus) -> None:
        self.config, self.bus = config, bus
        self.arena = Arena()
        self.cpu = Cpu(self.arena)
        self.space = (
            AddressSpace(self.arena, config.max_memory) if config.max_memory else AddressSpace(self.arena)
        )
        self.space.on_change = self.cpu.range_changes
        aliases = Aliases(self.space, self.cpu)
        kernel_config = KernelConfig(
            sysroot=config.sysroot,
            writable=config.writable,
            cwd=config.cwd,
            max_memory=config.max_memory or _DEFAULT_MEMORY,
            seed=config.seed,
            uid=os.getuid(),
            gid=os.getgid(),
            groups=tuple(os.getgroups()),
            stdio=config.stdio,
            ignored=config.ignored,
            blocked=config.blocked,
            nice=config.nice,
        )
        self.kernel = Kernel(kernel_config, self.space, bus)
        self.kernel.fs.on_store = aliases.stored
        self.kernel.clock.realtime_offset = config.start_time
        self.kernel.cpu = self.cpu
        self.kernel.report = lambda line: _say(f"{line}\n")
        self.task = Task(_PID, os.path.basename(config.program)[:15])
        self.kernel.add_task(self.task)
        if config.policy is not None:
            self.kernel.scheduler.policy = config.policy
        bus.now = lambda: self.kernel.clock.monotonic
        bus.task = _PID
        self.cpu.read_tsc = lambda: self.kernel.clock.monotonic * 3
        self.rtld: Rtld | None = None
        self.contract: Contract | None = None
        self.loaded: Loaded | None = None
        self.ended: int | None = None
        self.symbols = Symbols(self, config.sysroot)
        self._backtraces = Backtraces(self)
        self.runner: Runner | None = None
        self._thread_pointer = self.cpu.batch((regs.FS_BASE,))
        self._halted = self._stuck = False

    # -- phases -----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Map the program and all that it needs; check versions. No guest code runs. Raises EmuError."""
        if self.loaded is not None:
            return
        config = self.config
        argv = [os.fsencode(config.argv0 or config.program), *map(os.fsencode, config.args)]
        envp = [os.fsencode(f"{name}={value}") for name, value in config.env.items()]
        loaded = self.loaded = load_program(
            self.kernel, config.program, argv, envp, build_vdso(), config.image, listed=config.keep_going
        )
        if loaded.interpreter is not None:
            self._link(loaded, loaded.interpreter)

    def _link(self, loaded: Loaded, mapped_interpreter: KernelImage) -> None:
        """Let the dynamic linker map what the program needs, as the LD_* variables ask for."""
        config, program, name = self.config, loaded.program, os.fsdecode(loaded.argv[0])
        rtld = self.rtld = Rtld(self.arena, self.space, self.kernel.fs, self.bus, config.env, name)
        rtld.keep_going = config.keep_going
        rtld.write_error = _say
        if self.bus.init or self.bus.fini or self.bus.dtors:
            rtld.describe = self.symbols.describe
        debugging = Debugging(self.kernel, config.env, name, program.path, self.task.tid)
        if debugging.helped:
            self.ended = 0
            return
        debugging.attach(self.bus)
        rtld.accept_undefined = bool(debugging.mask & UNUSED)
        rtld.bind_now |= rtld.accept_undefined
        rtld.trace = "LD_TRACE_LOADED_OBJECTS" in config.env and not config.keep_going
        contract = self.contract = Contract(
            rtld, self.arena, self.space, self.thread_pointer, config.tls_dtors == "model"
        )
        contract.debug_mask, contract.debug_fd = debugging.mask, debugging.fd
        contract.source = self.symbols.source
        contract.on_linked = lambda: self._watch_dlclose(contract)
        rtld.describe_caller = self.symbols.call_site
        rtld.on_unload = self._forget
        rtld.unload_rule = config.unload_rule
        interpreter = mapped(mapped_interpreter)
        try:
            ld_so_map = contract.prepare(interpreter)
            vdso = map_of_vdso(self.space, loaded.vdso) if loaded.vdso else None
            rtld.begin(mapped(program), interpreter, vdso, ld_so_map)
            if rtld.auditor_names is None:
                without_guest(rtld.load())
            contract.info = start_info(loaded)
            contract.plant_entries()
            contract.lay_out_tls()
        except (EmuError, RecursionError) as error:
            raise self._link_error(error) from None
        if rtld.trace:
            self.ended = list_objects(rtld, config.env, debugging.write)

    def start(self) -> None:
        """Link the program: TLS, relocation, IFUNCs. Stops before the first constructor. Raises EmuError."""
        self.load()
        if self.contract is None or self.ended is not None:
            return
        contract = self.contract

        def link_only(_contract: Contract, _call: object):  # type: ignore[no-untyped-def]
            yield from contract.link()
            self.halt()
            return 0

        contract.traps[contract.start_stub] = link_only
        self.begin(contract.start_stub)
        with HostSignals(self.kernel, self.cpu, self.config.timeout) as host:
            self.advance(host)

    def run(self) -> Result:
        """Run the program to its end. Raises EmuError for what ends the run without being the guest's doing."""
        self.load()
        if self.ended is not None:
            return Result(self.ended)
        self.begin()
        with HostSignals(self.kernel, self.cpu, self.config.timeout) as host:
            while self.runner is None or self.runner.ended is None:
                self.advance(host)
        return self.finish()

    def _observe(self, atexit: ThreadAtexit) -> None:
        Observer(atexit, self.cpu.watch, self.cpu.gprs)

    def _watch_dlclose(self, contract: Contract) -> None:
        """Note who calls dlclose: unlike dlopen, it does not pass that on."""
        dlclose = contract.rtld.lookup(b"dlclose")
        if dlclose is not None:
            self.cpu.watch(
                dlclose,
                lambda: contract.close_callers.__setitem__(
                    self.thread_pointer(), self.arena.read_u64(self.cpu.get(regs.RSP))
                ),
            )

    def begin(self, address: int | None = None) -> None:
        """Make ready to run from `address`, the program's start if it is not given. Raises EmuError."""
        self.load()
        assert self.loaded is not None
        if address is None:
            if self.contract is not None and self.config.tls_dtors == "guest" and self.bus.dtors:
                self.contract.on_dtors_planted = self._observe
            address = self.contract.start_stub if self.contract is not None else self.loaded.start
        self.runner = Runner(self.cpu, self.kernel, self.contract)
        self.cpu.set(regs.RSP, self.loaded.stack_pointer)
        self.cpu.set(regs.RDX, 0)
        self.cpu.set(regs.RIP, address)

    def halt(self) -> None:
        """Make `advance` return where the guest is now. For use in hooks and handlers."""
        self._halted = True
        self.cpu.stop()

    def advance(self, host: HostSignals | None = None) -> None:
        """Run on until the process ends (`runner.ended`), a hosted function pauses (`runner.paused`) or `halt` is called.

        A hosted function that has paused is resumed first; after a deadlock another thread runs. Raises EmuError for what is not the guest's doing.
        """
        runner = self.runner
        assert runner is not None
        halted, self._halted = self._halted, False
        try:
            if runner.paused:
                runner.go_on()
                if runner.ended is None and not runner.paused:
                    runner.attend()
            elif self._stuck:
                self._stuck = False
                runner.run_next()
            elif halted and runner.ended is None:
                runner.attend_if_due()  # the CPU may have been about to stop for this, too
            while runner.ended is None and not runner.paused and not self._halted:
                outcome = self.cpu.run(self.cpu.get(regs.RIP))
                if host is not None and host.timed_out and runner.ended is None:
                    raise HostStop
                if runner.ended is not None:
                    break
                if isinstance(outcome, (PageFault, CpuException)):
                    self._fault(outcome, runner)
                elif runner.paused or self._halted:
                    break
                if runner.ended is None:
                    runner.attend()
        except InstructionError as error:
            where = self.symbols.where(error.address)
            raise UnsupportedError(error.name, where, error.why) from None
        except (LoaderError, ElfError, VersionErrors) as error:
            raise self._link_error(error) from None
        except Deadlock:
            self._stuck = True
            here = self.cpu.save()
            text = report(self)  # it looks at the other threads' registers in the CPU
            self.cpu.restore(here)
            raise DeadlockError(text) from None
        except HostStop:
            if host is None:
                self._stuck = True  # as after a deadlock: who waits goes on waiting
                return
            raise RunTimeout(
                f"{self.config.program}: stopped after {self.config.timeout or 0:g} s (--timeout)"
            ) from None

    def finish(self) -> Result:
        """Return how the process ended, after what is due at its end."""
        assert self.runner is not None
        self.kernel.scheduler.policy.finish()
        self.space.sync_all()
        return self._result(self.runner)

    def _fault(self, outcome: PageFault | CpuException, runner: Runner) -> None:
        """Turn a fault into a signal."""
        task = runner.task
        signal = to_signal(outcome, self.cpu, self.arena)
        text = describe_fault(signal, outcome, self, task)
        killed = self.kernel.fault(
            task, self.cpu, signal.signo, signal.code, signal.address, signal.trapno, signal.error
        )
        if killed is not None:
            self._fault_text = text
            runner.ended = killed
        if self.bus.faults:
            where = self.symbols.where(signal.pc)
            self.bus.emit(Fault(signal.name, signal.access, signal.address, signal.pc, where, killed is None))

    _fault_text = ""

    def _result(self, runner: Runner) -> Result:
        ended = runner.ended
        assert ended is not None
        if isinstance(ended, Exit):
            return Result(ended.status & 0xFF)
        from emu.kernel.abi import signal_name

        name = signal_name(ended.signo)
        thread = "" if ended.task is self.task else f" in thread {ended.task.tid} ({ended.task.name})"
        detail = self._fault_text
        if not detail:
            detail = "sent by the program itself" if ended.info.pid else "sent from outside or by a timer"
            if ended.task is runner.task:
                detail += f", at {self.symbols.where(self.cpu.get(regs.RIP))}"
        line = f"emu: {self.config.program}: killed by {name}{thread}: {detail}"
        if ended.task is runner.task:
            line += f"\n{render(self.backtrace())}"
        return Result(128 + ended.signo, ended.signo, line)

    def backtrace(self, task: Task | None = None) -> list[FrameInfo]:
        """Return the frames of the running thread, or of another, the innermost first. For use in hosted functions and after a fault.

        It says what it can: a stack that is corrupt ends the list, and the last frame's `note` says why. Raises EmuError for a thread that has ended.
        """
        return self._backtraces.frames(task)

    def capture(self) -> list[Captured]:
        """Return the running thread's frames with their functions and lines unread; `resolve` reads them, even after their objects have gone."""
        return self._backtraces.capture()

    def resolve(self, captured: Iterable[Captured]) -> list[FrameInfo]:
        """Return captured frames as `backtrace` does."""
        return self._backtraces.resolve(captured)

    def complete_backtraces(self, complete: Callable[[list[Captured]], list[Captured]]) -> None:
        """Let `complete` put the callers of the guest into the frames of the running thread, in place of how the guest was entered."""
        self._backtraces.complete = complete

    def frames(self, gprs: list[int]) -> list[FrameInfo]:
        """Return the frames from registers in the order of `regs.GPRS`."""
        return self._backtraces.of(gprs)

    def hosted_name(self, trap: int) -> str:
        """Return the name of the hosted function at a trap, the one that it has in glibc."""
        planted = self.contract.pointer_stubs if self.contract is not None else {}
        purpose = next((name for name, address in planted.items() if address == trap), "")
        return (
            _GLIBC_NAMES.get(purpose, purpose)
            or self.symbols.function(trap)
            or f"hosted function at {trap:#x}"
        )

    # -- details ----------------------------------------------------------------------------------------------------

    def thread_pointer(self) -> int:
        """Return the running thread's fs base."""
        self._thread_pointer.read()
        return self._thread_pointer.values[0]

    def _forget(self, map_: LinkMap) -> None:
        self.symbols.forget(map_)
        self._backtraces.forget(map_)

    def _link_error(self, error: BaseException) -> EmuError:
        name = os.fsdecode(self.loaded.argv[0]) if self.loaded is not None else self.config.program
        return link_error(name, error)


def _say(text: str) -> None:
    """Write to standard error at once, in order with what the guest writes."""
    os.write(2, os.fsencode(text))
