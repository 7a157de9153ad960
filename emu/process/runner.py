"""The runner: interprets effects. The only place where hosted functions, system calls, tasks and the CPU meet.

At a trap the program counter says what is asked: a hosted function, the return of a guest function that a hosted one called, or
a system call. `emu.process.hosted_functions` knows of the first two.

Tasks change at traps, by exchange of the registers inside the trap, or where the block counter has stopped the CPU. A program
with one thread never pays for it: blocks are counted only where there are threads or timers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import Exit, RegistersSet
from emu.core.errors import MemoryFault
from emu.core.events import Switch
from emu.glibc.call import Call
from emu.kernel import rseq
from emu.kernel.clock import NEVER, SWITCH_NS
from emu.kernel.policy import SLICE
from emu.kernel.waiting import Blocked
from emu.machine import regs
from emu.process.frame import Frame
from emu.process.hosted_functions import HostedFunctions

if TYPE_CHECKING:
    from emu.glibc.contract import Contract
    from emu.kernel.kernel import Kernel
    from emu.kernel.signals import Killed
    from emu.kernel.task import Task
    from emu.machine.cpu import Cpu

_M64 = (1 << 64) - 1
_RAX, _RCX, _RDX, _RSI, _RDI, _RSP, _R8, _R9, _R10, _RIP, _RFLAGS = 0, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17
_NS_PER_BLOCK = 5
"""What a basic block costs in virtual time, where blocks are counted."""
_CHUNK = 10_000
"""The most blocks that are counted before the clock is looked at, while something is due at a known time."""
_PATIENCE = 16
"""Slices that a last thread without timers runs before counting ends: it costs a new translation of all code."""
_SIGSEGV, _SEGV_MAPERR = 11, 1


class Runner(HostedFunctions):
    """Serves the traps of one process. `ended` becomes the Exit or Killed that ends it, `task` is the one that runs.

    `paused` tells that a hosted function of that task has given the host control; `go_on` resumes it.
    """

    def __init__(self, cpu: Cpu, kernel: Kernel, contract: Contract | None) -> None:
        super().__init__(cpu, kernel, contract)
        self.ended: Exit | Killed | None = None
        self._counting = cpu.counter.installed
        self._slice = self._chunk = self._lone_slices = 0
        self._handlers = contract.traps if contract is not None else {}
        self._returns: set[int] = set()
        if contract is not None:
            stubs = contract.stubs
            self._returns = {stubs.return_call, stubs.return_plt, stubs.return_start}
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
            previous.cpu = kernel.cpu_time(previous)
        kernel.clock.now += SWITCH_NS
        task.cpu_since = kernel.clock.cpu
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
