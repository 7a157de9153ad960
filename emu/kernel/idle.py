"""The choice of the task that runs next, and what happens while none can.

Where none can, virtual time jumps to the next deadline or timer; only a wait for the host's terminal or pipe
takes real time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel.run.clock import NEVER

if TYPE_CHECKING:
    from emu.kernel.kernel import System
    from emu.kernel.run.task import Task


class Deadlock(EmuError):
    """No task can run, and nothing that any of them waits for can come."""

    def __init__(self) -> None:
        super().__init__("deadlock: every thread waits, and nothing can end that")


class HostStop(Exception):
    """The host ends a wait that nothing else would end."""


def next_task(system: System) -> tuple[Task, int, int]:
    """Return what `Scheduler.pick` does, once a task can run.

    Raises Deadlock, HostStop, and what the policy raises.
    """
    scheduler, clock, host = system.scheduler, system.clock, system.host
    while True:
        if host.speaks:  # a task may wake again and again to find nothing, and never come to run
            system.take_from_host()
            if host.stops:
                raise HostStop
        if clock.now >= clock.alarm:
            system.pass_time()
        if scheduler.polled:
            scheduler.poll()
        if scheduler.ready:
            return scheduler.pick()
        _idle(system)


def _idle(system: System) -> None:
    """Let time pass until something may happen."""
    host = system.host
    processes = list(system.processes.values())
    blocks = [
        task.block for process in processes for task in process.tasks.values() if task.block is not None
    ]
    files = [entry for block in blocks for entry in block.files]
    hosts = [descriptor for file, events in files for descriptor in file.hosts(events)]
    deadlines = [at for file, _ in files if (at := file.deadline()) is not None]
    timers = (process.timers.next_while_idle for process in processes)
    until = min(*timers, system.scheduler.next_deadline, *deadlines)
    if hosts or until == NEVER and any(block.for_signal for block in blocks):
        left = None if until == NEVER else max(until - system.clock.now, 0)
        if host.wait(hosts, left):
            return
    elif until == NEVER:
        raise Deadlock
    if until != NEVER:
        clock = system.clock
        passed = max(until - clock.now, 0)
        clock.now += passed
        clock.idle += passed
        for process in processes:
            process.timers.idle(passed)
        system.pass_time()
