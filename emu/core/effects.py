"""What a hosted function or a syscall handler asks of the runner.

A hosted function that needs the guest in the middle of its work is a generator; it yields effects and is
resumed with their results. The runner in `emu.process` is their only interpreter. Source: the design is
trio's, a handful of traps as the only way to yield.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from emu.core.record import NamedTuple

_T = TypeVar("_T")


class CallGuest(NamedTuple):
    """Call the guest function at `address` with integer arguments;
    resumed with its rax (unsigned, 64 bits).
    """

    address: int
    args: tuple[int, ...] = ()


class Jump(NamedTuple):
    """Leave the hosted function by a jump to `address`, with the caller's return address on the stack.

    `args`, if any, replace the argument registers. `pop` bytes are taken off the stack first (the two words
    that a PLT pushes).
    """

    address: int
    args: tuple[int, ...] = ()
    pop: int = 0


class Resume(NamedTuple):
    """Leave the hosted function with the registers of `context` (of
    `emu.machine.cpu`), wherever they lead.
    """

    context: object


class SystemCall(NamedTuple):
    """Make a system call as the guest would (ld.so makes some itself); resumed with its signed result."""

    number: int
    args: tuple[int, ...] = ()


class Pause(NamedTuple):
    """Give the host control: the run stops, and the hosted function is resumed (with 0) when it goes on."""


PAUSE = Pause()


class Exit(NamedTuple):
    """End the task (`group` false) or the whole process (`group` true) with `status` (0 to 255)."""

    status: int
    group: bool = True


class RegistersSet(NamedTuple):
    """The handler has replaced the registers itself (rt_sigreturn): nothing goes to rax."""


REGISTERS_SET = RegistersSet()

Effect = CallGuest | Jump | Resume | SystemCall | Pause
Hosted = Generator[Effect, int, int]
"""A hosted function in progress: yields effects, receives rax of each call, returns its own rax."""


def without_guest(work: Generator[Effect, int, _T]) -> _T:
    """Run work that has no need of the guest to its end and return its result:
    there is nobody who could run guest code.
    """
    try:
        effect = next(work)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError(f"work without a guest asked for {effect}")
