"""A guest that runs and stops for a debugger:
breakpoints, steps, watched memory, signals, the loader's events.

A stop is always at an instruction of the guest that has not run yet. What happens in a trap (an event of the
loader, a system call's end) stops the guest at the first instruction behind it. Nothing that is asked for
here changes the guest, and none of it is seen by it.

One piece: who asks for a stop, and what stops, meet in the same few attributes.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.errors import EmuError, MemoryFault
from emu.gdb.stop import SIGINT, Stop
from emu.gdb.watches import Watches
from emu.kernel import abi
from emu.kernel.fs.hostfile import HostFile
from emu.kernel.run.journal import Journal
from emu.machine import regs
from emu.machine.engine import FAR
from emu.process.deadlock import DeadlockError
from emu.process.faults import accesses

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.gdb.watches import Watch
    from emu.kernel.run.signal_info import SignalInfo
    from emu.kernel.run.task import Task
    from emu.process import Process

_PATIENCE = 0.002
_IDLE = 100
"""How often a stop that nobody wants any more is passed before it is taken away."""
_TRAP = 2
"""Bytes of a `syscall`."""
_PAGE_FAULT, _FETCH = 14, 16
"""The trap number, and the bit of its error code that tells of an instruction that could not be fetched."""
_FAULTS = (abi.SIGSEGV, abi.SIGBUS, abi.SIGILL, abi.SIGFPE, abi.SIGTRAP)

Key = tuple[int, int]
"""A place in the run: the number of a block, and the address of an instruction in it.

Later places are greater.
"""


class Execution:
    """One process under a debugger, from before its first instruction.

    - `process`, `port`, `journal`: what is debugged; its CPU as a debugger sees it; what came from outside
    - `breakpoints`, `watches`: the addresses to stop at, the memory that is watched
    - `pass_signals`: signals that go to the guest without a word
    - `kept`: the signal that has come and not acted yet, and the thread that it is for
    - `on_record`: is told of each address of `breakpoints` that is passed, and says whether to stop there
    - `before_access`, `watch_stops`: are told that an instruction is about to access a watched page; says
      whether an access that counts stops
    - `bound`: the block at which the run stops in any case
    - `ended`: the last stop of a process that is over
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = process.cpu.debug_port(process.halt, self._reached)
        self.journal = Journal()
        self.breakpoints: set[int] = set()
        self.watches = Watches(process.arena)
        self.pass_signals: frozenset[int] = frozenset()
        self.kept: tuple[Task, SignalInfo] | None = None
        self.ended: Stop | None = None
        self.on_record: Callable[[int], bool] = lambda address: True
        self.before_access: Callable[[], None] = lambda: None
        self.watch_stops: Callable[[Watch], bool] = lambda watch: True
        self.bound = FAR
        self._passed: dict[int, int] = {}
        self._found: deque[Stop] = deque()
        self._approved: SignalInfo | None = None
        self._counted = self._interrupted = self._running = self._unfetched = False
        self._pc = self._step_to = self._leaving = 0
        self._awaited: Task | None = None

    # -- where it is -----------------------------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """The thread that runs."""
        runner = self.process.runner
        assert runner is not None
        return runner.task

    @property
    def key(self) -> Key:
        """Where the run is."""
        return self.port.count + (not self._counted), self.process.cpu.get(regs.RIP)

    def begin(self) -> None:
        """Bring the process to its first instruction. Raises EmuError."""
        self.process.load()
        self.process.begin()
        self.attach()
        self._go(1)

    def attach(self) -> None:
        """Take over a process that has begun."""
        process = self.process
        assert process.runner is not None
        process.runner.tell_switches(self._switched)
        process.kernel.signals.show_first(self._signalled)
        process.kernel.system.host.journal = self.journal
        for file in process.kernel.fds.files.values():
            if isinstance(file, HostFile):
                file.journal = self.journal
        self._serve = process.cpu.take_traps(self._trap)
        self._found.clear()  # what the loader has told so far

    # -- running ---------------------------------------------------------------------------------------------

    def standing(self) -> Stop:
        """Return why the guest stands still when nothing has happened."""
        return self.ended or Stop(self.task.tid)

    def resume(self, signal: int = 0, until: int = FAR) -> Stop:
        """Run until something stops the guest, or block `until` begins: then the reason is "reached".

        `signal` is what the signal that was kept becomes (0: nothing).
        """
        if self._found:
            return self._found.popleft()
        self._answer(signal)
        if self.ended is not None:
            return self.ended
        while True:
            stop = self._continue(until)
            if stop is not None:
                return stop

    def step(self, tid: int, signal: int = 0, inside: tuple[int, int] | None = None) -> Stop:
        """Run one instruction of a thread, or (`inside`) until it leaves a range of code."""
        if self._found:
            return self._found.popleft()
        self._answer(signal)
        while True:
            stop = self.ended or self._step(tid)
            if stop is not None:
                return stop
            if inside is None or not inside[0] <= self.process.cpu.get(regs.RIP) < inside[1]:
                return Stop(tid)
            if self._interrupted:
                self._interrupted = False
                return Stop(tid, SIGINT)
            if self.process.cpu.get(regs.RIP) in self.breakpoints:
                return Stop(tid, reason="swbreak")

    def run_to(self, address: int) -> None:
        """Run on to an instruction of the present block."""
        cpu = self.process.cpu
        while cpu.get(regs.RIP) != address:
            self._step_to = address
            self._plant(self.breakpoints | {address})
            self.port.guard(self.watches.pages())
            self._go(self.port.count + 1)
            self._step_to = 0
            if self._why(FAR) is not None or self.port.reached:
                return

    def leave_stub(self) -> None:
        """Run the `ret` behind a hosted function's trap, if that is what comes:
        then the guest stands in code of its own.
        """
        contract, pc = self.process.contract, self.process.cpu.get(regs.RIP)
        if contract is None or not self._counted or self.ended is not None:
            return
        stubs = contract.stubs
        returns = (stubs.return_call, stubs.return_plt, stubs.return_start)
        if pc - _TRAP in contract.traps or pc - _TRAP in returns:
            self._plant(set())
            self.port.guard({})
            self._go(self.port.count + 1)

    def interrupt(self) -> None:
        """Stop the guest where it is. May be called from another host thread."""
        self._interrupted = True
        while self._running and self._interrupted:
            self.port.stop_at(0)
            self.process.kernel.system.host.breaks_off()
            time.sleep(_PATIENCE)  # one that comes just before the guest runs is lost

    def stop_soon(self, stop: Stop) -> None:
        """Stop for a reason that has just come up in a trap, before the next instruction of the guest.

        For use in sinks of events.
        """
        self._found.append(stop)
        self.port.stop_at(0)

    def stop_here(self, stop: Stop) -> None:
        """Stop at once: outside of traps, or in one with the program counter set back to it."""
        self._found.append(stop)
        self.process.halt()

    def moved(self, counted: bool) -> None:
        """The state was put back to a place where the CPU stands so; see `counted`."""
        self._counted = counted
        self._pc = self.process.cpu.get(regs.RIP)
        self._found.clear()
        self.kept = self.ended = None
        self.watches.look()

    @property
    def counted(self) -> bool:
        """Whether the block that the CPU stands in has begun already."""
        return self._counted

    def _continue(self, until: int) -> Stop | None:
        """Run on to the next thing that stops the CPU; None if it was nothing that anybody wants to know."""
        self._plant(self.breakpoints)
        self.port.guard(self.watches.pages())
        self._go(until)
        return self._why(until)

    def _why(self, until: int) -> Stop | None:
        """Return why the CPU has stopped."""
        if self.ended is not None:
            return self.ended
        if self._found:
            found = self._found.popleft()
            if self.kept is None:
                self.leave_stub()
            return found
        if self.port.hit is not None and self.port.hit in self.breakpoints:
            return Stop(self.task.tid, reason="swbreak")
        if self.process.guarded is not None:
            return self._accessed()
        if self._interrupted:
            self._interrupted = False
            self.process.kernel.system.host.goes_on()
            return Stop(self.task.tid, SIGINT)
        if self.port.count >= min(until, self.bound):
            return Stop(self.task.tid, reason="reached")
        return None

    def _go(self, until: int) -> None:
        """Let the CPU run to its next stop, or the beginning of block `until`."""
        process, port = self.process, self.port
        if self._counted and process.cpu.get(regs.RIP) == self._pc:
            port.go_on()
        port.hit = None
        self._unfetched = False
        port.stop_at(0 if self._interrupted else min(until, self.bound))
        self._counted = self._running = True
        try:
            process.advance()
            self._counted = not (process.stuck or self._unfetched)
        except DeadlockError as error:
            self._found.append(Stop(self.task.tid, SIGINT, text=str(error)))
            self._counted = False
        except EmuError as error:
            self.ended = Stop(self.task.tid, text=f"emu: {error}", status=error.exit_code)
        finally:
            self._running = False
        runner = process.runner
        assert runner is not None
        if runner.ended is not None:
            result = process.finish()
            killed = None if isinstance(runner.ended, Exit) else runner.ended.signo
            self.ended = Stop(
                self.task.tid,
                text=result.report,
                status=result.status if killed is None else None,
                killed=killed,
            )
        self._pc = process.cpu.get(regs.RIP)

    def _step(self, tid: int) -> Stop | None:
        """Run one instruction of a thread; what else stops the guest meanwhile is returned."""
        tasks = self.process.kernel.tasks
        while self.task.tid != tid:
            if tid not in tasks:
                return self.resume()
            stop = self._until_it_runs(tasks[tid])
            if stop is not None:
                return stop
        task = self.task
        here = self.process.cpu.get(regs.RIP)
        following = self.port.next_address()
        self._step_to, self._leaving = following or 0, here
        self._plant(self.breakpoints | ({following} if following else set()))
        self.port.guard(self.watches.pages())
        try:
            self._go(self.port.count + (1 if self._counted and self._pc == here else 2))
        finally:
            self._step_to = self._leaving = 0
        stop = self._why(FAR)
        while stop is None and self.task is not task:
            if task.tid not in tasks:
                return self.resume()
            stop = self._until_it_runs(task)
        return stop

    def _until_it_runs(self, task: Task) -> Stop | None:
        """Let the others run until it is this thread's turn."""
        self._awaited = task
        try:
            return self._continue(FAR)
        finally:
            self._awaited = None

    # -- what is told from within ----------------------------------------------------------------------------

    def _plant(self, wanted: set[int]) -> None:
        """Stop at these addresses.

        One that is not wanted any more stays until it costs something:
        gdb takes breakpoints away for each step.
        """
        for address in self.port.planted - wanted:
            if self._passed.get(address, 0) > _IDLE:
                self.port.remove(address)
                del self._passed[address]
        for address in wanted - self.port.planted:
            with suppress(MemoryFault):
                self.process.arena.read(address, 1)
                self.port.plant(address)

    def _reached(self, address: int) -> bool:
        if address == self._step_to and self._awaited is None:
            return True
        if address == self._leaving:
            return False
        if address in self.breakpoints:
            return self.on_record(address)
        passed = self._passed[address] = self._passed.get(address, 0) + 1
        if passed > _IDLE:
            self.port.stop_at(0)  # to be taken away
        return False

    def _switched(self, task: Task) -> None:
        if task is self._awaited:
            self.port.stop_at(0)

    def _trap(self) -> None:
        self._serve()
        if self.watches:
            watch = self.watches.changed()
            if watch is not None:
                self.stop_soon(Stop(self.task.tid, reason=watch.kind, value=f"{watch.address:x}"))

    # -- watched memory --------------------------------------------------------------------------------------

    def _accessed(self) -> Stop | None:
        """Run the instruction that is about to access a guarded page, and see
        whether that was what is watched.
        """
        process, task = self.process, self.task
        touched = accesses(process.cpu, process.arena, process.cpu.get(regs.RIP))
        self.before_access()
        pages = self.port.guard({})
        following = self.port.next_address()
        here = process.cpu.get(regs.RIP)
        self._step_to, self._leaving = following or 0, here
        self._plant(self.breakpoints | ({following} if following else set()))
        self._go(self.port.count + 1)
        self._step_to = self._leaving = 0
        self.port.guard(pages)
        if self.ended is not None or self._found:
            return self._why(FAR)
        watch = self.watches.changed() or self.watches.touched(touched)
        if watch is not None and self.watch_stops(watch):
            return Stop(task.tid, reason=watch.kind, value=f"{watch.address:x}")
        return None

    # -- signals ---------------------------------------------------------------------------------------------

    def _signalled(self, task: Task, info: SignalInfo) -> bool:
        """Say whether a signal waits for the debugger's word."""
        if info == self._approved:
            self._approved = None
            return False
        stops = self.journal.ask(f"signal {info.signo}", lambda: info.signo not in self.pass_signals)
        if stops:
            self.kept = task, info
            stop = Stop(task.tid, info.signo)
            if _is_fault(info) and not self.process.cpu.in_trap:
                self._unfetched = info.trapno == _PAGE_FAULT and bool(info.error_code & _FETCH)
                self.stop_here(stop)
            else:
                self.stop_soon(stop)
        return stops

    def _answer(self, signal: int) -> None:
        """Let the signal that was kept act, as another one if `signal` is one, or not at all (0)."""
        if self.kept is None:
            return
        (task, info), self.kept = self.kept, None
        signal = self.journal.ask("what a signal becomes", lambda: signal)
        if not signal:
            return
        if signal != info.signo:
            info = info._replace(signo=signal, code=0)
        self._approved = info
        process, runner = self.process, self.process.runner
        assert runner is not None
        if _is_fault(info) and task is self.task:
            killed = process.kernel.fault(
                task, process.cpu, info.signo, info.code, info.address, info.trapno, info.error_code
            )
            if killed is not None:
                process.ending.die_of_fault(killed)
        else:
            task.pending.insert(0, info)
            task.signalled = True
            process.kernel.signals.switched(self.task)
            runner.attend_if_due()  # now, so that the handler is another place than where the signal came


def _is_fault(info: SignalInfo) -> bool:
    """Whether an instruction has raised the signal."""
    return info.code > 0 and info.signo in _FAULTS
