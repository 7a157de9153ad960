"""The runner: interprets effects. The only place where hosted functions, system calls, tasks and the CPU meet.

At a trap the program counter says what is asked: a hosted function, the return of a guest function that a hosted one called, or
a system call. A hosted function's guest frame is just its caller's return address; to call the guest, the runner puts the target and
a return stub below it and lets the stub's `ret` go there. Frames are found again by the stack pointer with which the guest comes back, so one
that was jumped out of (longjmp, an exception, another context) is simply never asked for again.

Tasks change at traps, by exchange of the registers inside the trap, or where the block counter has stopped the CPU. A program
with one thread never pays for it: blocks are counted only where there are threads or timers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Exit, Jump, Pause, RegistersSet, Resume, SystemCall
from emu.core.errors import ElfError, LoaderError, MemoryFault
from emu.core.events import Switch
from emu.glibc.call import Call
from emu.kernel import rseq
from emu.kernel.clock import NEVER
from emu.kernel.policy import SLICE
from emu.kernel.signals import clean_mask
from emu.kernel.waiting import Blocked
from emu.machine import regs
from emu.machine.cpu import Context
from emu.process.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.glibc.contract import Contract
    from emu.kernel.kernel import Kernel
    from emu.kernel.signals import Killed
    from emu.kernel.task import Task
    from emu.machine.cpu import Cpu

_M64 = (1 << 64) - 1
_RAX, _RCX, _RDX, _RSI, _RDI, _RSP, _R8, _R9, _R10, _RIP, _RFLAGS = 0, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17
_CALL_REGS = (regs.RSP, regs.RAX, regs.RDI, regs.RSI, regs.RDX, regs.RCX, regs.R8, regs.R9)
_NS_PER_BLOCK = 5
"""What a basic block costs in virtual time, where blocks are counted."""
_CHUNK = 10_000
"""The most blocks that are counted before the clock is looked at, while something is due at a known time."""
_PATIENCE = 16
"""Slices that a last thread without timers runs before counting ends: it costs a new translation of all code."""
_SIGSEGV, _SEGV_MAPERR = 11, 1


class Runner:
    """Serves the traps of one process. `ended` becomes the Exit or Killed that ends it, `task` is the one that runs.

    `paused` tells that a hosted function of that task has given the host control; `go_on` resumes it.
    """

    def __init__(self, cpu: Cpu, kernel: Kernel, contract: Contract | None) -> None:
        self.cpu, self.kernel, self.contract = cpu, kernel, contract
        self.task = kernel.scheduler.current
        self.ended: Exit | Killed | None = None
        self._counting = cpu.counter.installed
        self._slice = self._chunk = self._lone_slices = 0
        self._frames: dict[int, Frame] = {}
        self._waiting: dict[Task, tuple[Frame, int]] = {}
        self._paused: tuple[Frame, int] | None = None
        self._handlers = contract.traps if contract is not None else {}
        self._returns: set[int] = set()
        if contract is not None:
            stubs = contract.stubs
            self._returns = {stubs.return_call, stubs.return_plt, stubs.return_start}
        self._calls = cpu.batch(_CALL_REGS)
        self._stack = cpu.batch((regs.RSP, regs.RAX))
        self._result = cpu.batch((regs.RAX, regs.RCX, regs.R11))
        cpu.on_trap = self.on_trap
        cpu.on_blocks = self._on_blocks

    # -- traps ----------------------------------------------------------------------------------------------------

    def on_trap(self) -> None:
        """Serve one `syscall` instruction; `cpu.trap` holds the registers."""
        trap = self.cpu.trap
        rip = trap[_RIP]
        handler = self._handlers.get(rip)
        if handler is not None:
            assert self.contract is not None
            args = (trap[_RDI], trap[_RSI], trap[_RDX], trap[_RCX], trap[_R8], trap[_R9])
            rsp = trap[_RSP]
            try:
                result = handler(self.contract, Call(args, rsp, trap[_RAX]))
                if isinstance(result, int):
                    self.cpu.set(regs.RAX, result & _M64)
                    return
                waits = self._advance(Frame(result, rip, rsp, *self._kind(rip), self.task), None)
            except MemoryFault as fault:
                self._segfault(fault)
                return
            if waits:
                self._run_next("blocked")
        elif rip in self._returns and trap[_RSP] in self._frames:
            frame = self._frames.pop(trap[_RSP])
            try:
                waits = self._advance(frame, trap[_RAX])
            except MemoryFault as fault:
                self._segfault(fault)
                return
            if waits:
                self._run_next("blocked")
        else:
            self._syscall(trap, rip)

    @property
    def paused(self) -> bool:
        """Whether a hosted function waits for `go_on`."""
        return self._paused is not None

    def go_on(self) -> None:
        """Resume the hosted function that has paused; the CPU is stopped, and runs on from its RIP afterwards."""
        assert self._paused is not None
        (frame, mask), self._paused = self._paused, None
        self.kernel.signals.set_mask(self.task, mask)
        try:
            waits = self._advance(frame, 0)
        except MemoryFault as fault:
            self._segfault(fault)
            return
        if waits:
            self._run_next("blocked")

    def run_next(self) -> None:
        """Let another task run, after a deadlock that the host has ended; the CPU is stopped. Raises Deadlock."""
        self._run_next("blocked")

    def standing(self) -> Iterator[Frame]:
        """Yield the hosted functions that have paused, or wait in a system call of their own."""
        if self._paused is not None:
            yield self._paused[0]
        for frame, _ in self._waiting.values():
            yield frame

    def calling(self) -> Iterator[Frame]:
        """Yield the hosted functions that wait for a guest function to return, those that were jumped out of included."""
        yield from self._frames.values()

    def hosted_entry(self, rsp: int) -> int | None:
        """Return where the hosted function was entered whose caller's return address lies at `rsp`, if one waits for the guest there."""
        return next((frame.entry for frame in self._frames.values() if frame.rsp == rsp), None)

    def _kind(self, rip: int) -> tuple[int, bool]:
        """Return the stub that a guest function called from the hosted one at `rip` returns to, and whether all registers are kept."""
        assert self.contract is not None
        stubs = self.contract.stubs
        if rip == self.contract.start_stub:
            return stubs.return_start, False
        preserve = rip in self.contract.preserving
        return (stubs.return_plt if preserve else stubs.return_call), preserve

    def _syscall(self, trap: memoryview, rip: int) -> None:
        args = (trap[_RDI], trap[_RSI], trap[_RDX], trap[_R10], trap[_R8], trap[_R9])
        flags = trap[_RFLAGS]
        kernel = self.kernel
        result = kernel.syscall(self.task, self.cpu, trap[_RAX], args)
        if isinstance(result, int):
            values = self._result.values
            values[0], values[1], values[2] = result & _M64, rip + 2, flags
            self._result.write()
        elif isinstance(result, Blocked):
            values = self._result.values
            values[0], values[1], values[2] = trap[_RAX], rip + 2, flags
            self._result.write()
            self._run_next("blocked")
            return
        elif not isinstance(result, RegistersSet):
            self._exit(result)
            return
        if (
            kernel.signals.wake
            or kernel.scheduler.due
            or kernel.scheduler.polled
            or kernel.timers.next_expiry < NEVER
            and not self._counting
        ):
            self.attend()

    def _exit(self, effect: Exit) -> None:
        """End the running task, or the whole process."""
        kernel, task = self.kernel, self.task
        if effect.group:
            self._end(effect)
            return
        for rsp in [rsp for rsp, frame in self._frames.items() if frame.task is task]:
            self._frames.pop(rsp).generator.close()
        if kernel.end_task(task, effect.status):
            self._end(Exit(kernel.leader_status))
        else:
            self._run_next("exited")

    def _end(self, outcome: Exit | Killed) -> None:
        self.ended = outcome
        self.cpu.stop()

    def _segfault(self, fault: MemoryFault) -> None:
        """The hosted function touched memory that the guest does not have: the fault is the guest's."""
        killed = self.kernel.fault(self.task, self.cpu, _SIGSEGV, _SEGV_MAPERR, fault.address, 14, 6)
        if killed is not None:
            self._end(killed)

    # -- tasks ----------------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Do what is due between two instructions: begin or end to count, deliver signals, let another task run."""
        kernel, scheduler = self.kernel, self.kernel.scheduler
        if not self.cpu.in_trap:
            self._count()
        elif not self._counting:
            if kernel.timers.next_expiry < NEVER or len(kernel.tasks) > 1:
                self.cpu.stop()  # the counter is installed when the CPU has stopped
            else:
                scheduler.due = ""
        if kernel.signals.wake:
            self._deliver()
        if self._counting and self.ended is None:
            if scheduler.polled and scheduler.lone:
                scheduler.poll()  # the call may have made a file ready
            self._account()
            if self._slice <= 0:
                scheduler.due = "preempted"
            if scheduler.due:
                reason = scheduler.due
                rseq.interrupt(kernel, self.task)
                scheduler.ready.insert(0 if reason == "woken" else len(scheduler.ready), self.task)
                self._run_next(reason)
            else:
                self._refill()

    def attend_if_due(self) -> None:
        """Do what is due, if anything is: where nothing is, the run goes on as if the CPU had not stopped."""
        kernel, scheduler = self.kernel, self.kernel.scheduler
        wanted = kernel.timers.next_expiry < NEVER or len(kernel.tasks) > 1
        spent = self._counting and self._slice <= 0
        if spent or kernel.signals.wake or scheduler.due or scheduler.polled or wanted and not self._counting:
            self.attend()

    def _deliver(self) -> None:
        rseq.interrupt(self.kernel, self.task)
        killed = self.kernel.deliver_signals(self.task, self.cpu)
        if killed is not None:
            self._end(killed)

    def _run_next(self, reason: str) -> None:
        """Go on with the task that the scheduler picks, and with its system call if it waited in one."""
        kernel, scheduler = self.kernel, self.kernel.scheduler
        self._account()
        while True:
            task, self._slice = scheduler.pick()
            self._switch(task, reason)
            if task.call is None:
                break
            result = kernel.resume(task)
            if isinstance(result, int) and self._finish(task, result):
                break
            reason = "blocked"
        self._refill()
        if kernel.signals.wake:
            self._deliver()
        if not self._counting and len(kernel.tasks) > 1 and self.cpu.in_trap:
            self.cpu.stop()

    def _finish(self, task: Task, result: int) -> bool:
        """Hand a system call's result to who made it; false if that is a hosted function, which makes another and waits."""
        waiting = self._waiting.pop(task, None)
        if waiting is None:
            self.cpu.set(regs.RAX, result & _M64)
            return True
        frame, mask = waiting
        self.kernel.signals.set_mask(task, mask)
        try:
            return not self._advance(frame, result)
        except MemoryFault as fault:
            self._segfault(fault)
            return True

    def _switch(self, task: Task, reason: str) -> None:
        """Exchange the registers of the running task for those of `task`."""
        previous = self.task
        if task is previous:
            return
        kernel = self.kernel
        if previous.tid in kernel.tasks:
            previous.context = self.cpu.save(previous.context)
        assert task.context is not None
        self.cpu.restore(task.context)
        self.task = kernel.scheduler.current = task
        kernel.bus.task = task.tid
        kernel.signals.switched(task)
        if kernel.bus.sched:
            kernel.bus.emit(Switch(previous.tid, task.tid, reason))

    # -- time and slices ------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count blocks while there are threads or timers; the CPU is stopped."""
        kernel = self.kernel
        if kernel.timers.next_expiry < NEVER or len(kernel.tasks) > 1:
            self._lone_slices = 0
            if not self._counting:
                self.cpu.counter.install()
                self._counting = True
                self._slice = SLICE
                self._refill()
        elif self._counting and self._lone_slices >= _PATIENCE:
            self.cpu.counter.remove()
            self._counting = False
            self.kernel.scheduler.due = ""

    def _on_blocks(self) -> None:
        """The chunk of blocks is done; called from within the CPU."""
        kernel = self.kernel
        self._account()
        if kernel.clock.now >= kernel.clock.alarm:
            kernel.pass_time()
        if self._slice <= 0:
            self._lone_slices += 1
        if self._slice <= 0 or kernel.scheduler.due or kernel.signals.wake:
            self.cpu.stop()
        else:
            self._refill()

    def _account(self) -> None:
        """Let virtual time and the slice pass with the blocks executed."""
        if self._counting:
            left = self.cpu.counter.left
            used = self._chunk - left
            self._chunk = left
            self._slice -= used
            self.kernel.clock.now += used * _NS_PER_BLOCK

    def _refill(self) -> None:
        """Set the counter to the rest of the slice, or to when something is due."""
        clock = self.kernel.clock
        blocks = self._slice
        if clock.alarm < NEVER:
            blocks = min(blocks, _CHUNK, (clock.alarm - clock.now) // _NS_PER_BLOCK + 1)
        self._chunk = self.cpu.counter.left = max(blocks, 1)

    # -- hosted functions -----------------------------------------------------------------------------------------

    def _advance(self, frame: Frame, value: int | None) -> bool:
        """Resume a hosted function with the result of its last effect, up to its next call of the guest or its end; true if it
        waits in a system call.
        """
        generator = frame.generator
        while True:
            try:
                effect = generator.send(value)  # type: ignore[arg-type]
            except StopIteration as stop:
                self._leave(frame, stop.value)
                return False
            except (LoaderError, ElfError) as error:
                contract = self.contract
                if contract is None or not contract.rtld.started:
                    raise
                if isinstance(error, ElfError):
                    error = LoaderError(error.object_name, error.reason)
                frame.generator = generator = contract.errors.signal(error)
                value = None
                continue
            if isinstance(effect, CallGuest):
                self._call(frame, effect)
                return False
            if isinstance(effect, SystemCall):
                result = self._own_call(frame, effect)
                if isinstance(result, Blocked):
                    return True
                value = result
                continue
            if isinstance(effect, Pause):
                # A handler could not return into the hosted function: signals wait until it goes on.
                self._paused = frame, self.task.mask
                self.kernel.signals.set_mask(self.task, clean_mask(_M64))
                self.cpu.stop()
                return False
            generator.close()
            if isinstance(effect, Resume):
                assert isinstance(effect.context, Context)
                self.cpu.restore(effect.context)
            else:
                self._jump(frame, effect)
            return False

    def _own_call(self, frame: Frame, effect: SystemCall) -> int | Blocked:
        """Make a hosted function's system call. No signal comes between: a handler could not return into it."""
        task, signals = self.task, self.kernel.signals
        mask = task.mask
        signals.set_mask(task, clean_mask(_M64))
        result = self.kernel.syscall(task, self.cpu, effect.number, (*effect.args, 0, 0, 0, 0, 0, 0)[:6])
        if isinstance(result, Blocked):
            self._waiting[task] = (frame, mask)
            return result
        signals.set_mask(task, mask)
        return result if isinstance(result, int) else 0

    def _leave(self, frame: Frame, result: int) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        values = self._stack.values
        values[0], values[1] = frame.rsp, result & _M64
        self._stack.write()

    def _call(self, frame: Frame, effect: CallGuest) -> None:
        if frame.preserve and frame.context is None:
            frame.context = self.cpu.save()
        slot = (frame.rsp - 8 & -16) - 8  # the callee finds its return address here, aligned as after a call
        arena = self.kernel.arena
        arena.write_u64(slot, frame.back)
        arena.write_u64(slot - 8, effect.address)
        values = self._calls.values
        values[0], values[1] = slot - 8, 0
        args = effect.args
        for index in range(6):
            values[2 + index] = args[index] & _M64 if index < len(args) else 0
        self._calls.write()
        abandoned = self._frames.get(slot + 8)
        self._frames[slot + 8] = frame
        if abandoned is not None:
            abandoned.generator.close()

    def _jump(self, frame: Frame, effect: Jump) -> None:
        if frame.context is not None:
            self.cpu.restore(frame.context)
        top = frame.rsp + effect.pop - 8
        self.kernel.arena.write_u64(top, effect.address)
        for register, value in zip((regs.RDI, regs.RSI, regs.RDX, regs.RCX), effect.args, strict=False):
            self.cpu.set(register, value)
        self.cpu.set(regs.RSP, top)
