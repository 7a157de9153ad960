"""The runner: interprets effects.

The only place where hosted functions, system calls, tasks and the CPU meet.

At a trap the program counter says what is asked: a hosted function, the return of a guest function that a
hosted one called, or a system call. `emu.process.hosted_functions` knows of the first two.

Tasks change at traps, by exchange of the registers inside the trap, or where the block counter has stopped
the CPU. A program with one thread never pays for it: blocks are counted only where there are threads or
timers.

One piece: traps, tasks and time meet at the same stop of the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.effects import Exit, RegistersSet
from emu.core.errors import STRICT, UNFORESEEN, EmuError, MemoryFault
from emu.core.task_events import ForcedSwitch, Switch
from emu.glibc.call import HostedCall
from emu.kernel.dispatch import resume, syscall
from emu.kernel.exit import end_task
from emu.kernel.idle import next_task
from emu.kernel.run import rseq
from emu.kernel.run.block import Blocked
from emu.kernel.run.clock import NEVER, SWITCH_NS
from emu.kernel.run.policy import SLICE, Promise
from emu.machine import regs
from emu.process.frame import Frame
from emu.process.hosted_functions import HostedFunctions

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.glibc.contract import Contract
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.signals import Killed
    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu
    from emu.process.tree import Tree

    OnFault = Callable[[Exception, int, Killed | None], None]

_M64 = (1 << 64) - 1
_RAX, _RCX, _RDX, _RSI, _RDI, _RSP, _R8, _R9, _R10, _RIP, _RFLAGS = 0, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17
NS_PER_BLOCK = 5
"""What a basic block costs in virtual time, where blocks are counted."""
_CHUNK = 10_000
"""The most blocks that are counted before the clock is looked at, while something is due at a known time."""
_PATIENCE = 16
"""Slices that a last thread without timers runs before counting ends:
it costs a new translation of all code.
"""
_SIGSEGV, _SEGV_MAPERR, _SI_KERNEL = 11, 1, 0x80
_CANONICAL = 1 << 47


class Runner(HostedFunctions):
    """Serves the traps of one process.

    `ended` becomes the Exit or Killed that ends it, `task` is the one that runs.

    `paused` tells that a hosted function of that task has given the host control; `go_on` resumes it.
    `on_fault` is told of each error that became a SIGSEGV, with the hosted function's entry, and what came of
    it.
    """

    def __init__(
        self, cpu: Cpu, kernel: Kernel, contract: Contract | None, tree: Tree, on_fault: OnFault
    ) -> None:
        super().__init__(cpu, kernel, contract)
        self._tree = tree
        self.ended: Exit | Killed | None = None
        self._counting = cpu.counter.installed
        self._slice = self._chunk = self._lone_slices = self._instruction = 0
        self._told_of_force = False
        self._handlers = contract.traps if contract is not None else {}
        self._returns: set[int] = set()
        if contract is not None:
            stubs = contract.stubs
            self._returns = {stubs.return_call, stubs.return_plt, stubs.return_start}
        self._result = cpu.batch((regs.RAX, regs.RCX, regs.R11))
        self._on_fault = on_fault
        self._on_switch: Callable[[Task], None] = lambda task: None
        self.serve()

    def tell_switches(self, to: Callable[[Task], None]) -> None:
        """Tell `to` of each task that runs in the place of another."""
        self._on_switch = to

    def serve(self) -> None:
        """Serve the CPU's traps from now on: a child of vfork has its parent's CPU."""
        self.cpu.take_traps(self.on_trap)
        self.cpu.know_traps(lambda rip: rip in self._handlers or rip in self._returns)
        self.cpu.take_blocks(self._on_blocks)
        self._counting = self.cpu.counter.installed

    # -- traps -----------------------------------------------------------------------------------------------

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
                result = handler(self.contract, HostedCall(args, rsp, trap[_RAX]))
                if isinstance(result, int):
                    self.cpu.set(regs.RAX, result & _M64)
                    return
                waits = self._advance(Frame(result, rip, rsp, *self._kind(rip), self.task), None)
            except (MemoryFault, *UNFORESEEN) as error:
                self.fault(error, rip)
                return
            if waits:
                self._run_next("blocked")
        elif rip in self._returns and trap[_RSP] in self._frames:
            frame = self._frames.pop(trap[_RSP])
            try:
                waits = self._advance(frame, trap[_RAX])
            except (MemoryFault, *UNFORESEEN) as error:
                self.fault(error, frame.entry)
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
        """Resume the hosted function that has paused;
        the CPU is stopped, and runs on from its RIP afterwards.
        """
        assert self._paused is not None
        (frame, mask), self._paused = self._paused, None
        self.kernel.signals.set_mask(self.task, mask)
        try:
            waits = self._advance(frame, 0)
        except (MemoryFault, *UNFORESEEN) as error:
            self.fault(error, frame.entry)
            return
        if waits:
            self._run_next("blocked")

    def run_next(self) -> None:
        """Let another task run, after a deadlock that the host has ended; the CPU is stopped.

        Raises Deadlock.
        """
        self._run_next("blocked")

    def _syscall(self, trap: memoryview, rip: int) -> None:
        args = (trap[_RDI], trap[_RSI], trap[_RDX], trap[_R10], trap[_R8], trap[_R9])
        flags = trap[_RFLAGS]
        kernel = self.kernel
        result = syscall(kernel, self.task, self.cpu, trap[_RAX], args)
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
        elif self._tree.runner_of(self.task) is not self:
            self.cpu.stop()  # execve: the process goes on with another CPU
            return
        if (
            kernel.signals.wake
            or kernel.scheduler.due
            or kernel.scheduler.polled
            or kernel.system.next_expiry < NEVER
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
        if end_task(kernel, task, effect.status):
            self._end(Exit(kernel.leader_status))
        else:
            self._run_next("exited")

    def _end(self, outcome: Exit | Killed) -> None:
        self.ended = outcome
        self.cpu.stop()

    def fault(self, error: Exception, entry: int = 0) -> None:
        """The hosted function at `entry` (0: none, but a hook) cannot work with what the guest has given it:
        a SIGSEGV of the guest's, as natively.

        Raises the error under EMU_STRICT=1 if nobody has foreseen it.
        """
        if not isinstance(error, MemoryFault):
            if STRICT or isinstance(error, EmuError):
                raise error
        if entry and self.cpu.in_trap and self.cpu.trap[_RIP] == entry:
            self.cpu.set(
                regs.RIP, entry
            )  # as an instruction that faults: the unwind rules of what follows do not hold yet
        address = error.address if isinstance(error, MemoryFault) else 0
        if (address + _CANONICAL & _M64) < 2 * _CANONICAL:
            killed = self.kernel.fault(self.task, self.cpu, _SIGSEGV, _SEGV_MAPERR, address, 14, 6)
        else:
            killed = self.kernel.fault(self.task, self.cpu, _SIGSEGV, _SI_KERNEL, 0, 13, 0)
        self._on_fault(error, entry, killed)
        if killed is not None:
            self._end(killed)

    # -- tasks -----------------------------------------------------------------------------------------------

    def attend(self) -> None:
        """Do what is due between two instructions:
        begin or end to count, deliver signals, let another task run.
        """
        kernel, scheduler = self.kernel, self.kernel.scheduler
        if self.cpu.late_stop.planted:
            self.cpu.late_stop.remove()
            self._instruction = 0
        if not self.cpu.in_trap:
            self._count()
        elif not self._counting:
            if self._shared_time:
                self.cpu.stop()  # the counter is installed when the CPU has stopped
            else:
                scheduler.due = ""
        if kernel.signals.wake and self._deliver():
            return
        if self._counting and self.ended is None:
            if scheduler.polled and scheduler.lone:
                scheduler.poll()  # the call may have made a file ready
            self._account()
            if self._slice <= 0:
                if self._stops_later():
                    return
                scheduler.due = "preempted"
            if scheduler.due:
                reason = scheduler.due
                rseq.interrupt(self.task, self.cpu, kernel.arena, kernel.signals)
                scheduler.ready.insert(0 if reason == "woken" else len(scheduler.ready), self.task)
                self._run_next(reason)
            else:
                self._refill()

    def preempt(self) -> None:
        """Let another task run before the instruction at hand, which is a trap's or has a hook;
        blocks must be counted.

        That task is the scheduler's to choose. The instruction runs, with its trap or hook, when this task
        has its next turn.
        """
        self.kernel.scheduler.due = "preempted"
        if self.cpu.in_trap:
            self.cpu.set(regs.RIP, self.cpu.trap[_RIP])
            self.attend()
        else:
            self.cpu.stop()

    def count(self) -> None:
        """Count blocks from now on, before there is a second thread:
        so that code is not translated anew then. The CPU stands still.
        """
        if not self._counting:
            self.cpu.counter.install()
            self._counting = True
            self._slice = SLICE
            self._refill()

    @property
    def left(self) -> int:
        """The basic blocks left of the present slice, at the last time that they were looked at."""
        return self._slice

    def _stops_later(self) -> bool:
        """Whether the slice goes on for some instructions of the block that the CPU has just come to;
        it stops again then.
        """
        address, size = self.cpu.counter.block
        if not self._instruction or self.cpu.in_trap or self.cpu.get(regs.RIP) != address:
            return False
        return self.cpu.late_stop.plant(address, size, self._instruction)

    def attend_if_due(self) -> None:
        """Do what is due, if anything is: where nothing is, the run goes on as if the CPU had not stopped."""
        kernel, scheduler = self.kernel, self.kernel.scheduler
        wanted = self._shared_time
        spent = self._counting and self._slice <= 0
        if spent or kernel.signals.wake or scheduler.due or scheduler.polled or wanted and not self._counting:
            self.attend()

    def _deliver(self) -> bool:
        """Deal with signals; true if the process has stopped, and another runs."""
        kernel = self.kernel
        kernel.system.take_from_host()
        rseq.interrupt(self.task, self.cpu, kernel.arena, kernel.signals)
        killed = kernel.deliver_signals(self.task, self.cpu)
        if killed is not None:
            self._end(killed)
        elif kernel.signals.stopped:
            kernel.scheduler.add(self.task)  # it is held until the process goes on
            self._run_next("stopped")
            return True
        return False

    @property
    def _shared_time(self) -> bool:
        """Whether there is somebody, or a timer, that may want the CPU."""
        kernel = self.kernel
        system = kernel.system
        return system.next_expiry < NEVER or len(kernel.tasks) > 1 or len(system.processes) > 1

    def run_on(self) -> None:
        """The process is over: let another run. Raises Deadlock."""
        self._run_next("exited")

    def _run_next(self, reason: str) -> None:
        """Go on with the task that the scheduler picks, and with its system call if it waited in one."""
        self._account()
        active = self
        while True:
            task, blocks, instruction = next_task(self.kernel.system)
            runner = self._tree.runner_of(task)
            runner._slice, runner._instruction = blocks, instruction
            runner._switch(task, reason, active)
            active = runner
            if task.call is None:
                break
            result = resume(active.kernel, task)
            if isinstance(result, int) and active._finish(task, result):
                break
            reason = "blocked"
        active._refill()
        if active.kernel.signals.wake:
            active._deliver()
        if (
            active is not self
            and self.cpu.in_trap
            or active is self
            and not self._counting
            and self._shared_time
            and self.cpu.in_trap
        ):
            self.cpu.stop()

    def _finish(self, task: Task, result: int) -> bool:
        """Hand a system call's result to who made it; false if that is a hosted function,
        which makes another and waits.
        """
        waiting = self._waiting.pop(task, None)
        if waiting is None:
            self.cpu.set(regs.RAX, result & _M64)
            return True
        frame, mask = waiting
        self.kernel.signals.set_mask(task, mask)
        try:
            return not self._advance(frame, result)
        except (MemoryFault, *UNFORESEEN) as error:
            self.fault(error, frame.entry)
            return True

    def _switch(self, task: Task, reason: str, active: Runner) -> None:
        """Exchange the registers of the running task, which are with `active`, for those of `task`."""
        kernel = self.kernel
        previous = kernel.scheduler.current
        if task is previous and active is self:
            return
        if previous.tid in active.kernel.tasks:
            previous.context = active.cpu.save(previous.context)
            previous.cpu = active.kernel.cpu_time(previous)
        if active is not self:
            active.kernel.stop_running()
        kernel.clock.now += SWITCH_NS
        if active is not self:
            kernel.begin_running()
            self.serve()
            self._tree.running = self._tree.processes[task.pid]
            kernel.bus.process = 0 if kernel is kernel.system.leader else kernel.pid
        task.cpu_since = kernel.clock.cpu
        assert task.context is not None
        self.cpu.restore(task.context)
        self.task = kernel.scheduler.current = task
        kernel.bus.task = task.tid
        kernel.signals.switched(task)
        self._on_switch(task)
        if kernel.bus.sched:
            kernel.bus.emit(Switch(previous.tid, task.tid, reason))

    # -- time and slices -------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Count blocks while there are threads or timers; the CPU is stopped."""
        if self._shared_time:
            self._lone_slices = 0
            self.count()
        elif self._counting and self._lone_slices >= _PATIENCE:
            self.cpu.counter.remove()
            self._counting = False
            self.kernel.scheduler.due = ""

    def _on_blocks(self) -> None:
        """The chunk of blocks is done; called from within the CPU."""
        kernel = self.kernel
        if self.cpu.counter.forced:
            self._forced()
        self._account()
        if kernel.clock.now >= kernel.clock.alarm:
            kernel.system.pass_time()
        if self._slice <= 0:
            self._lone_slices += 1
        if self._slice <= 0 or kernel.scheduler.due or kernel.signals.wake:
            self.cpu.stop()
        else:
            self._refill()

    def _forced(self) -> None:
        """The host's clock has ended a slice: say so, once. What that took has passed for the guest,
        too: else a timer would hardly come for code that makes no calls.
        """
        counter = self.cpu.counter
        self.kernel.clock.now += counter.forced * counter.forced_ns
        counter.forced = 0
        policy = self.kernel.scheduler.policy
        if isinstance(policy, Promise):
            policy.forced()
        if not self._told_of_force and self.kernel.bus.sched:
            self.kernel.bus.emit(ForcedSwitch())
        self._told_of_force = True

    def _account(self) -> None:
        """Let virtual time and the slice pass with the blocks executed."""
        if self._counting:
            left = self.cpu.counter.left
            used = self._chunk - left
            self._chunk = left
            self._slice -= used
            self.kernel.clock.now += used * NS_PER_BLOCK

    def _refill(self) -> None:
        """Set the counter to the rest of the slice, or to when something is due."""
        clock = self.kernel.clock
        blocks = self._slice
        if clock.alarm < NEVER:
            blocks = min(blocks, _CHUNK, (clock.alarm - clock.now) // NS_PER_BLOCK + 1)
        self._chunk = self.cpu.counter.left = max(blocks, 1)
