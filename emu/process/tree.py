"""All processes of a run: which of them has the CPU, how another is made, and what
becomes of one that is over.

Each process has an engine of its own. While one runs the others stand still between two instructions, with
their registers saved; a child of vfork has its parent's engine, and its memory, until it executes a program
or ends.

Source: the design is Linux's, kernel/fork.c, fs/exec.c and kernel/exit.c, over Python objects.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from emu.core.effects import Exit
from emu.core.errors import EmuError, ExecError, NoRoomError
from emu.core.task_events import ProgramExecuted
from emu.kernel import abi
from emu.kernel.exit import end_other_tasks, end_process, release_parent
from emu.kernel.run.signal_info import Action
from emu.kernel.run.task import AltStack
from emu.kernel.syscalls.robust import release
from emu.machine.arena import size_for
from emu.machine.budget import ENGINE, PROGRAM
from emu.process.notes import say

if TYPE_CHECKING:
    from emu.core.duplicate import Duplicate
    from emu.kernel.kernel import Executable, Kernel
    from emu.kernel.run.family import Family, Shares
    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu
    from emu.process.process import Process
    from emu.process.runner import Runner


class Follower(Protocol):
    """Is told of what becomes of the processes of a run."""

    def follows(self, parent: Process) -> bool:
        """Whether children of `parent` are to be watched as it is."""

    def prepare(self, parent: Process, child: Process, copy: Duplicate) -> None:
        """The linker of a process that is followed is about to be copied for a child."""

    def forked(self, parent: Process, child: Process, copy: Duplicate) -> None:
        """A child of a process that is followed has come to be, with memory of its own; it has not run
        yet.
        """

    def leaving(self, process: Process) -> None:
        """A process executes another program; all of the old one is still there."""

    def executed(self, process: Process) -> None:
        """Another program is mapped in a process; its linker is about to begin."""

    def linked(self, process: Process) -> None:
        """The linker has mapped what that program needs."""

    def ended(self, process: Process) -> bool:
        """A process is over, and all of it still there; whether a fault that has killed it will be told."""


class Tree:
    """The processes by their ids: the `leader`, which the run was started with, and those that came of
    it. `running` has the CPU.

    `follower` is told of them, if there is one.
    """

    def __init__(self, leader: Process) -> None:
        self.follower: Follower | None = None
        self.leader = self.running = leader
        self.processes: dict[int, Process] = {leader.kernel.pid: leader}
        self._retired: list[Cpu] = []

    def runner_of(self, task: Task) -> Runner:
        """Return who lets a thread run."""
        runner = self.processes[task.pid].runner
        assert runner is not None
        return runner

    def stop(self) -> None:
        """Let the CPU stop as soon as possible; may be called from another host thread."""
        self.running.cpu.stop()

    # -- what the kernel asks (emu.kernel.kernel.Forge) ------------------------------------------------------

    def fork(self, parent: Kernel, task: Task, family: Family, shares: Shares) -> Kernel:
        """Return the kernel of a new process: a copy of `parent`, or one with the same memory.

        Raises OSError, EmuError.
        """
        from emu.kernel.fork import fork_kernel
        from emu.machine.fork import fork_space
        from emu.process.copy import copy_process

        process = self.processes[parent.pid]
        if shares.memory:
            kernel = fork_kernel(parent, parent.space, family, shares)
            kernel.use(parent.space, process.cpu, parent.stored)
            self.processes[kernel.pid] = process.twin(kernel)
            return kernel
        if parent.system.budget.room() < ENGINE:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        try:
            arena, cpu = process.new_machine((size_for(parent.space.end()),))
        except NoRoomError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        kernel = fork_kernel(parent, fork_space(parent.space, arena, cpu.before_change), family, shares)
        follower = self.follower
        if follower is not None and not follower.follows(process):
            follower = None
        prepare = follower.prepare if follower is not None else None
        child, copy = copy_process(process, kernel, cpu, task, prepare)
        self.processes[kernel.pid] = child
        if follower is not None:
            follower.forked(process, child, copy)
        self._count()
        return kernel

    def _count(self) -> None:
        """Let the budget know how many CPUs, and what programs, there are beside the leader's."""
        budget, leader = self.leader.kernel.system.budget, self.leader.kernel.program
        engines = {id(process.cpu) for process in self.processes.values()}
        budget.engines = max(len(engines) - 1, 0)
        programs = {id(process.kernel.program): process.kernel.program for process in self.processes.values()}
        budget.programs = sum(
            PROGRAM + 2 * sum(map(len, (*program.argv, *program.envp)))
            for program in programs.values()
            if program is not leader
        )

    def enter(self, child: Kernel, task: Task) -> None:
        """Enter the only thread of a new process."""
        process = self.processes[child.pid]
        process.task = task
        bus = child.bus
        bus.programs[child.pid] = bus.programs.get(child.family.parent, os.path.basename(child.program.exe))
        assert process.runner is not None
        process.runner.task = task
        for frame in process.runner.calling():
            frame.task = task

    def execute(self, kernel: Kernel, task: Task, program: Executable) -> None:
        """Let another program run in a process. Raises ExecError while the old one can go on."""
        process = self.processes[kernel.pid]
        old_space = kernel.space
        if process is not self.leader and kernel.system.budget.room() < PROGRAM:
            raise ExecError(f"{program.path}: {os.strerror(errno.ENOMEM)}", errno.ENOMEM)
        before, of_kernel = dict(process.__dict__), (kernel.brk_start, kernel.brk, kernel.program)
        try:
            process.renew(program)
        except ExecError:
            made = process.cpu
            if made is not before["cpu"]:
                made.close()  # its addresses are wanted by the next attempt
            process.__dict__.clear()
            process.__dict__.update(before)
            process.occupy()
            kernel.brk_start, kernel.brk, kernel.program = of_kernel
            raise
        if (debugging := before.get("debugging")) is not None and kernel.family.vfork is None:
            debugging.detach(kernel.bus)
        self._leave_memory(process, task, before)
        self._leave_program(kernel, task)
        name = os.path.basename(kernel.program.exe if program.by_descriptor else program.path)
        task.name = os.fsencode(name)[:15].decode("utf-8", "surrogateescape")
        kernel.bus.programs[kernel.pid] = name
        release_parent(kernel)
        if not any(other.space is old_space for other in kernel.system.processes.values()):
            old_space.release()
            self._retired.append(before["cpu"])
        if kernel.bus.threads:
            kernel.bus.emit(ProgramExecuted(kernel.pid, kernel.program.exe))
        process.task = task
        self._count()
        if self.follower is not None:
            self.follower.executed(process)
        self._begin(process)

    def _leave_memory(self, process: Process, task: Task, before: dict[str, Any]) -> None:
        """Do what is due in the memory of the old program, which is there for the last time: it is asked
        by who
        follows it, and all its threads are over. Source: Linux fs/exec.c:exec_mmap, de_thread.
        """
        kernel = process.kernel
        now = process.__dict__, kernel.space, kernel.arena
        process.__dict__, kernel.space, kernel.arena = before, before["space"], before["arena"]
        if self.follower is not None:
            self.follower.leaving(process)
        end_other_tasks(kernel, task)
        release(kernel, task)
        process.__dict__, kernel.space, kernel.arena = now

    @staticmethod
    def _leave_program(kernel: Kernel, task: Task) -> None:
        """Let go of what belongs to the old program. Source: execve(2), "Effect on process attributes"."""
        del kernel.tasks[task.tid]
        task.tid = kernel.pid
        kernel.tasks.add(task)
        kernel.fds = kernel.fds.executed()
        signals = kernel.signals
        signals.actions = [action if action.ignored else Action() for action in signals.actions]
        kernel.timers.posix.clear()
        kernel.timers.plan_again()
        task.robust_list, task.clear_child_tid, task.rseq = (0, 0), 0, (0, 0, 0)
        task.altstack, task.saved_mask, task.interrupted = AltStack(), None, None
        task.context = None
        kernel.bus.task = task.tid
        kernel.family.executed = True
        kernel.family.copied, kernel.family.left = {}, {}
        kernel.dumpable, kernel.credentials.keep = 1, False

    def _begin(self, process: Process) -> None:
        """Link the new program and make ready to run it;
        where that fails the process is over, with ld.so's words and exit status.
        """
        try:
            process.link()
            if self.follower is not None:
                self.follower.linked(process)
        except EmuError as error:
            with suppress(OSError):
                process.kernel.file(2).write(os.fsencode(f"{error}\n"))
            process.ended = error.exit_code
        process.begin()
        assert process.runner is not None
        if process.ended is not None:
            process.runner.ended = Exit(process.ended)

    # -- the end of processes --------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let another process run if the one that did is over;
        no CPU runs now, so those of programs that have gone are closed.
        """
        while self._retired:
            self._retired.pop().close()
        while (process := self.running) is not self.leader:
            runner = process.runner
            assert runner is not None
            if runner.ended is None:
                return
            if self.follower is None or not self.follower.ended(process):
                self._report(process)
            end_process(process.kernel, runner.ended)
            if process.debugging is not None and process.debugging is not self.leader.debugging:
                process.debugging.detach(process.bus)
            del self.processes[process.kernel.pid]
            self._count()
            runner.run_on()
            process.close()

    def forget(self, process: Process) -> None:
        """Give back what a process holds that has never been, since an earlier state is to be put back."""
        del self.processes[process.kernel.pid]
        if not any(other.space is process.space for other in self.processes.values()):
            process.space.release()
        process.close()

    def _report(self, process: Process) -> None:
        """Tell of a fault that has killed a child: its parent may say nothing."""
        line = process.ending.fault_report()
        if line:
            family = process.kernel.family
            parent = self.processes.get(family.parent)
            of = f"child of {family.parent}" + (f" ({parent.task.name})" if parent is not None else "")
            say(f"{line}\nemu: that was process {family.pid}, {of}\n")

    def end_rest(self) -> None:
        """The leader is over: end those that outlive it, and name them."""
        rest = [process for process in self.processes.values() if process is not self.leader]
        if not rest:
            return
        names = ", ".join(f"{process.kernel.pid} ({process.task.name})" for process in rest)
        print(
            f"emu: {self.leader.config.program} has ended before its processes {names}, which are ended, too",
            file=sys.stderr,
        )
        for process in rest:
            if self.follower is not None:
                self.follower.ended(process)
            end_process(process.kernel, Exit(abi.SIGKILL))
            del self.processes[process.kernel.pid]
            process.close()
