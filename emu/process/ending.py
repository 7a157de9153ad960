"""How a process ends, and what is said of it:
faults become signals, and the signal that kills becomes a report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.errors import MemoryFault
from emu.core.task_events import Fault
from emu.core.text import printable
from emu.kernel.abi import signal_name
from emu.machine import regs
from emu.machine.engine import PageFault
from emu.process.backtrace import render
from emu.process.config import Result
from emu.process.hosted_functions import hosted_name

if TYPE_CHECKING:
    from emu.kernel.run.signals import Killed
    from emu.machine.engine import CpuException
    from emu.process.process import Process
    from emu.process.resolver_fault import ResolverFault
    from emu.process.runner import Runner


_RIP = regs.GPRS.index(regs.RIP)
_SEGV_MAPERR = 1


class ProcessEnding:
    """Judges the end of one process.

    `resolver_fault` is what was wrong if an IFUNC resolver faulted, None else.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._latest = self._deadly = ""
        self.resolver_fault: ResolverFault | None = None

    def fault(self, outcome: PageFault | CpuException, runner: Runner) -> None:
        """Raise the signal that Linux sends for a page fault or an exception of the CPU."""
        from emu.process.faults import describe_fault, to_signal
        from emu.process.resolver_fault import resolver_fault

        process, task = self._process, runner.task
        signal = to_signal(outcome, process.cpu, process.arena)
        if isinstance(outcome, PageFault) and process.space.is_guard_fault(outcome.page, signal.access):
            signal = signal._replace(code=_SEGV_MAPERR)
        text = describe_fault(signal, outcome, process, task)
        if isinstance(outcome, PageFault) and process.rtld is not None and process.rtld.resolving is not None:
            self.resolver_fault = resolver_fault(process, signal.access, signal.address)
            if self.resolver_fault is not None:
                text += f": {self.resolver_fault.text}; {' or '.join(self.resolver_fault.remedies)}"
        self._latest = text
        killed = process.kernel.fault(
            task, process.cpu, signal.signo, signal.code, signal.address, signal.trapno, signal.error
        )
        if killed is not None:
            self.die_of_fault(killed)
        if process.bus.faults:
            where = process.symbols.where(signal.pc)
            process.bus.emit(
                Fault(signal.name, signal.access, signal.address, signal.pc, where, killed is None)
            )

    def hosted_fault(self, error: Exception, entry: int, killed: Killed | None) -> None:
        """Say what became of an error in a hosted function, or in a hook."""
        from emu.process.faults import describe_hosted_fault

        process = self._process
        name = hosted_name(process, entry) if entry else "emu"
        self._latest = describe_hosted_fault(error, name, process)
        if killed is not None:
            self._deadly = self._latest
        if process.bus.faults:
            address = error.address if isinstance(error, MemoryFault) else 0
            access = error.access if isinstance(error, MemoryFault) else "read"
            process.bus.emit(Fault("SIGSEGV", access, address, entry, name, killed is None))

    def out_of_memory(self, size: int, told: str) -> None:
        """Say that the program was told that there is no more memory;
        before it runs that is an error of its own.
        """
        process = self._process
        # Whoever calls dlopen is told by dlerror, also behind the program's malloc, which dlopen calls.
        hosted = process.cpu.is_trap(process.cpu.trap[_RIP])
        if process.runner is not None and not hosted:
            budget = process.arena.budget
            state = f"--max-memory ({budget.limit} bytes, {budget.used} of them in use)"
            process.kernel.system.report(
                f"emu: {process.config.program}: no room for {size} bytes within {state}; the program was told {told}"
            )

    def die_of_fault(self, killed: Killed) -> None:
        """End the process by the signal of the latest fault."""
        assert self._process.runner is not None
        self._deadly = self._latest
        self._process.runner.ended = killed

    def fault_report(self) -> str:
        """Return what is to be said of a fault that has killed the process, empty if none has."""
        return self.result().report if self._deadly and self._process.runner is not None else ""

    def report(self) -> str:
        """Return what is to be said of the signal that has killed the process, empty if none has."""
        return self.result().report if self._process.runner is not None else ""

    def result(self) -> Result:
        """Return the exit code of a process that has ended, and a report if a signal has killed it."""
        process, runner = self._process, self._process.runner
        assert runner is not None
        ended = runner.ended
        assert ended is not None
        if isinstance(ended, Exit):
            return Result(ended.status & 0xFF)
        name = signal_name(ended.signo)
        thread = "" if ended.task is process.task else f" in thread {ended.task.tid} ({ended.task.name})"
        detail = self._deadly
        if not detail:
            detail = "sent by the program itself" if ended.info.pid else "sent from outside or by a timer"
            if ended.task is runner.task:
                detail += f", at {process.symbols.where(process.cpu.get(regs.RIP))}"
        line = printable(f"emu: {process.config.program}: killed by {name}{thread}: {detail}")
        if ended.task is runner.task:
            line += f"\n{render(process.backtrace(), everything=process.config.all_frames)}"
        return Result(128 + ended.signo, ended.signo, line)
