"""Events of what runs: system calls, faults, threads, processes, and which of them is next."""

from emu.core.record import NamedTuple


class Syscall(NamedTuple):
    """A system call with its arguments and result as text."""

    number: int
    name: str
    arguments: str
    result: str


class Fault(NamedTuple):
    """A synchronous fault of the guest: `where` is object+offset and function,
    `handled` tells if it has a handler.
    """

    signal: str
    access: str
    address: int
    pc: int
    where: str
    handled: bool


class ThreadCreated(NamedTuple):
    """A thread began: its id, the name that it inherits, the top of its stack.

    The record's task is its creator.
    """

    thread: int
    name: str
    stack: int


class ProcessCreated(NamedTuple):
    """A process began, by fork, vfork or clone: its id, the name that it inherits.

    The record's task is its creator.
    """

    process: int
    name: str


class ProcessEnded(NamedTuple):
    """A process is over; `status` is what wait tells of it:
    an exit status in the second byte, or a signal's number in the first.
    """

    process: int
    name: str
    status: int


class ProgramExecuted(NamedTuple):
    """A process runs another program from here on."""

    process: int
    path: str


class ThreadNamed(NamedTuple):
    """A thread got a name."""

    thread: int
    name: str


class ThreadExited(NamedTuple):
    """A thread ended with `status`; the end of the whole process is not told thread by thread."""

    thread: int
    name: str
    status: int


class ThreadJoined(NamedTuple):
    """The end of `thread` woke `joiner`, which waited for it on the cleared word
    with its id (pthread_join does).
    """

    thread: int
    joiner: int


class Switch(NamedTuple):
    """Another thread runs: `reason` is blocked, preempted, yielded or exited, or
    woken for one that comes at once.
    """

    previous: int
    next: int
    reason: str


class ForcedSwitch(NamedTuple):
    """The host's clock ends the slice of a thread that computes without a system call:
    from here on the run is not the same every time.

    Told once a run; only an engine that counts no blocks does it.
    """
