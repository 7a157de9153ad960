"""The copy of a process that fork makes: its memory is copied already, here go the
linker and what hangs on it.

Python's generators cannot be copied. So of a hosted function in progress (dlopen, whose constructor forks)
the child has a frame that can only be left by what never returns to it: execve, _exit, a jump over it. The
child's return into it is an error that names the function.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

from emu.core.duplicate import Duplicate
from emu.core.effects import PAUSE
from emu.core.errors import UnsupportedError
from emu.core.events import EventBus
from emu.kernel.fs.file import Inode, OpenFile
from emu.kernel.fs.vfs import FileSystem
from emu.kernel.run.clock import Clock
from emu.machine.arena import Arena
from emu.machine.binding import Unicorn
from emu.machine.engine import HostPart, Noted
from emu.process.frame import Frame
from emu.process.hosted_functions import hosted_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from emu.core.effects import Effect
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu
    from emu.process.process import Process

_SHARED = (EventBus, FileSystem, Inode, OpenFile, Clock, Arena, Unicorn, Noted, HostPart, mmap, memoryview)
"""Types of what is the system's or never changes; the arena of the parent has its counterpart."""
_HOST = ("emu.elf.", "emu.api.", "emu.analysis.", "emu.trace.", "emu.testing.", "emu.cli.")
"""Packages whose objects say what a file says, or watch the run from outside."""
_OUTSIDE = _HOST[1:]
_OBSERVERS = "emu.analysis."
"""The package of those who watch one process, of which a child that is followed has copies."""


def copy_process(
    parent: Process,
    kernel: Kernel,
    cpu: Cpu,
    task: Task,
    prepare: Callable[[Process, Process, Duplicate], None] | None = None,
) -> tuple[Process, Duplicate]:
    """Return the process of a child whose kernel has its memory already, with `cpu` over it,
    and what knows all counterparts in it.

    `task` is the thread that forks. With `prepare`, which is called with parent, child and the copy that
    begins, those who watch the parent's linker and code are copied, too. Raises UnsupportedError.
    """
    child = parent.blank(kernel, cpu)
    assert parent.runner is not None
    facts = tuple(name for name in _HOST if not (prepare is not None and name == _OBSERVERS))
    copy = Duplicate(
        [
            (parent, child),
            (parent.kernel, kernel),
            (parent.arena, child.arena),
            (parent.space, child.space),
            (parent.cpu, child.cpu),
            (parent.symbols, child.symbols),
            (parent.images, child.images),
            (parent.config, child.config),
        ],
        _SHARED,
        facts,
    )
    if prepare is not None:
        prepare(parent, child, copy)
    child.rtld, child.contract = copy.of((parent.rtld, parent.contract))
    child.rendezvous = copy.of(parent.rendezvous)
    if child.contract is not None:
        for address, handler in child.contract.traps.items():
            if handler.__module__.startswith(_OUTSIDE):
                child.contract.traps[address] = _python_function
    for address, callback in parent.cpu.watched:
        if (copied := copy.of(callback)) is not callback:
            child.cpu.watch(address, copied)
    for start, end, called in parent.cpu.watched_code if prepare is not None else ():
        if (told := copy.of(called)) is not called:
            child.cpu.watch_code(start, end, told)
    if parent.debugging is not None:
        child.debugging = parent.debugging.of_child(kernel)
        child.debugging.attach(child.bus)
    child.make_runner()
    assert child.runner is not None
    frames = {}
    for rsp, frame in parent.runner.frames_of(task).items():
        lost = _lost(hosted_name(parent, frame.entry), parent.config.program)
        next(lost)
        frames[rsp] = Frame(lost, frame.entry, frame.rsp, frame.back, frame.preserve, frame.room, task)
        frames[rsp].context = frame.context
    child.runner.adopt(frames)
    return child, copy


def _lost(name: str, program: str) -> Generator[Effect, int, int]:
    """Stand for a hosted function in the child: what it is given when the guest comes back ends the run."""
    yield PAUSE
    raise UnsupportedError(f"return into {name} in a process that was forked inside it", program)


def _python_function(contract: object, call: object) -> int:
    """Stand for a function of Python's: it belongs to the process that Python drives."""
    raise UnsupportedError("call of a Python function in a forked process", "the guest")
