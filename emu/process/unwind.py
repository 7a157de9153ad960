"""From a thread's registers to the frames of its callers, by the unwind information in guest memory.

Nothing here trusts the stack or the tables: a walk ends with a reason, it never loops or raises.
Source: DWARF 5 6.4.4 (call frame unwinding); psABI 3.2.2, 3.4.1 (the outermost frame); libgcc unwind-dw2.c
and gdb dwarf2/frame.c for what is done where the standard is silent (signal frames, pc minus one, a jump to
nowhere).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, MemoryFault
from emu.core.record import NamedTuple
from emu.elf import cfi
from emu.elf.expression import Expression, evaluate
from emu.machine import regs
from emu.process.prologue import code_frame

if TYPE_CHECKING:
    from emu.core.types import ReadableMemory

MAX_FRAMES = 256
"""Physical frames in a walk."""

_M64 = (1 << 64) - 1
_ORDER = (
    regs.RAX, regs.RDX, regs.RCX, regs.RBX, regs.RSI, regs.RDI, regs.RBP, regs.RSP, regs.R8, regs.R9, regs.R10,
    regs.R11, regs.R12, regs.R13, regs.R14, regs.R15, regs.RIP,
)  # fmt: skip
_INDEXES = tuple(regs.GPRS.index(register) for register in _ORDER)
_FRAME_LIMIT = 1 << 24
"""Bytes between a guessed frame and its caller's, at most."""


class UnwoundFrame(NamedTuple):
    """One frame of the machine's stack.

    `pc` is where it goes on, `cfa` the stack pointer of its caller at the call (0 where it is unknown).

    `exact`: the instruction at `pc` has not run yet or was interrupted, so that `pc` itself says where the
    code is; else `pc` is behind a call, which may be the last instruction of its function: ask for the place
    of `pc - 1`. `signal` marks a signal trampoline, `guess` a frame that was found without unwind
    information.
    """

    pc: int
    cfa: int
    exact: bool
    signal: bool
    guess: bool

    @property
    def place(self) -> int:
        """The address whose function and line are the frame's."""
        return self.pc if self.exact else self.pc - 1


class Surroundings(NamedTuple):
    """What a walk asks of the process: the unwind table for an address, whether code may run there, the
    mapping that a stack lies in.

    `start` gives the beginning of the function at an address (0: unknown), `returns` tells whether calls by
    the loader return to an address.
    """

    memory: ReadableMemory
    table: Callable[[int], cfi.UnwindTable | None]
    executable: Callable[[int], bool]
    area: Callable[[int], object]
    start: Callable[[int], int]
    returns: Callable[[int], bool]


def from_gprs(values: Sequence[int]) -> list[int]:
    """Return registers in DWARF's order from those in the order of `regs.GPRS`."""
    return [values[index] for index in _INDEXES]


def walk(registers: Sequence[int], around: Surroundings) -> Generator[UnwoundFrame, None, str]:
    """Yield the frames from the innermost outward, and return why the walk ended: empty where the stack does.

    `registers` are in DWARF's order, the pc being the last.
    """
    state: list[int | None] = list(registers)
    exact, guess, seen = True, False, set()
    previous = 0
    for _ in range(MAX_FRAMES):
        pc, rsp = state[cfi.RETURN_ADDRESS], state[cfi.RSP]
        if pc is None or rsp is None or (not exact and not pc):
            return ""
        signal, caller, reason = _step(state, pc, exact, around)
        cfa = caller[cfi.RSP] if caller is not None else None
        yield UnwoundFrame(pc, cfa or 0, exact or signal, signal, guess)
        if caller is None or cfa is None:
            return reason
        if (cfa, caller[cfi.RETURN_ADDRESS]) in seen:
            return "the stack is corrupt: the next frame was there before"
        if cfa <= previous and not exact and around.area(cfa) is around.area(previous):
            return "the stack is corrupt: the next frame lies inside this one"
        seen.add((cfa, caller[cfi.RETURN_ADDRESS]))
        previous, exact, guess, state = cfa, signal, reason == _GUESS, caller
    return f"the walk ends after {MAX_FRAMES} frames"


_GUESS = "guess"
_Step = tuple[bool, list[int | None] | None, str]
"""Whether the frame is a signal trampoline's; the caller's registers or None;
why there is none, or that they are a guess.
"""


def _step(state: list[int | None], pc: int, exact: bool, around: Surroundings) -> _Step:
    place = pc if exact else pc - 1
    try:
        table = around.table(place)
        row = table.row(place) if table is not None else None
        if row is not None:
            return row.signal, *_apply(row, state, around.memory)
        if not around.executable(pc) and not around.start(place):
            return False, *_jumped(state, exact, around)
        if (caller := _by_code(state, place, pc, around)) is not None:
            return False, caller, ""
        return False, *_guess(state, exact, around)
    except MemoryFault as fault:
        return False, None, f"the stack is corrupt: no memory at {fault.address:#x}"
    except ElfError as error:
        return False, None, f"{error.object_name}: {error.reason}"


def _apply(
    row: cfi.Row, state: list[int | None], memory: ReadableMemory
) -> tuple[list[int | None] | None, str]:
    """Return the caller's registers by the rules of `row`."""
    if row.cfa_expression is not None:
        cfa = evaluate(row.cfa_expression, state, memory, "unwind information")
    else:
        base = state[row.cfa_register] if row.cfa_register < cfi.REGISTERS else None
        if base is None:
            return None, f"the caller's frame depends on register {row.cfa_register}, which is unknown"
        cfa = base + row.cfa_offset & _M64
    caller = list(state)
    caller[cfi.RSP] = cfa
    for register, kind, argument in row.rules:
        caller[register] = _value(kind, argument, cfa, state, memory)
    column = row.return_column
    if column >= cfi.REGISTERS:
        return None, f"the return address is in register {column}, which is unknown"
    if column != cfi.RETURN_ADDRESS:
        caller[cfi.RETURN_ADDRESS] = caller[column]
    elif not any(register == column for register, _, _ in row.rules):
        return None, "unwind information without a rule for the return address"
    if caller[cfi.RETURN_ADDRESS] is None:
        return None, ""  # the rule "undefined" marks the outermost frame
    return caller, ""


def _value(
    kind: int, argument: int | Expression, cfa: int, state: list[int | None], memory: ReadableMemory
) -> int | None:
    if isinstance(argument, Expression):
        value = evaluate(argument, state, memory, "unwind information", cfa)
        return _u64(memory, value) if kind == cfi.EXPRESSION else value
    match kind:
        case cfi.OFFSET:
            return _u64(memory, cfa + argument & _M64)
        case cfi.VAL_OFFSET:
            return cfa + argument & _M64
        case cfi.REGISTER:
            return state[argument] if argument < cfi.REGISTERS else None
        case _:
            return None


def _u64(memory: ReadableMemory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")


def _jumped(
    state: list[int | None], exact: bool, around: Surroundings
) -> tuple[list[int | None] | None, str]:
    """A jump or call to where no code is: a call has left the caller's address on the stack's top."""
    rsp = state[cfi.RSP]
    if not exact or rsp is None:
        return None, "the stack is corrupt: a return to where no code is"
    target = _u64(around.memory, rsp)
    if not _after_call(target, around):
        return None, "no return address lies on the stack's top"
    return _returned(state, rsp, target), ""


def _by_code(state: list[int | None], place: int, pc: int, around: Surroundings) -> list[int | None] | None:
    """A function without unwind information whose instructions up to the pc tell
    where the return address is.
    """
    start, rsp = around.start(place), state[cfi.RSP]
    if not start or rsp is None:
        return None
    frame = code_frame(around.memory, start, pc)
    if frame is None:
        return None
    target = _u64(around.memory, rsp + frame.depth)
    if not _after_call(target, around):
        return None
    caller = _returned(state, rsp + frame.depth, target)
    if frame.saved_rbp is not None:
        caller[cfi.RBP] = _u64(around.memory, rsp + frame.saved_rbp)
    return caller


def _guess(state: list[int | None], exact: bool, around: Surroundings) -> tuple[list[int | None] | None, str]:
    """Code without unwind information: as if it kept a frame pointer, or
    (innermost) had not touched the stack yet.
    """
    rsp, rbp = state[cfi.RSP], state[cfi.RBP]
    if rsp is not None and rbp is not None and rsp <= rbp < rsp + _FRAME_LIMIT and rbp % 8 == 0:
        target = _u64(around.memory, rbp + 8)
        if _after_call(target, around):
            caller = _returned(state, rbp + 8, target)
            caller[cfi.RBP] = _u64(around.memory, rbp)
            return caller, _GUESS
    if exact and rsp is not None:
        target = _u64(around.memory, rsp)
        if _after_call(target, around):
            return _returned(state, rsp, target), _GUESS
    return None, "code without unwind information"


def _returned(state: list[int | None], slot: int, target: int) -> list[int | None]:
    caller = list(state)
    caller[cfi.RSP], caller[cfi.RETURN_ADDRESS] = slot + 8, target
    return caller


def _after_call(address: int, around: Surroundings) -> bool:
    """Whether a call instruction ends at `address`: near relative, or indirect with any addressing form.

    Source: Intel SDM volume 2, CALL (E8, FF /2) and the ModR/M byte.
    """
    if around.returns(address):
        return True
    if not around.executable(address) or not around.executable(address - 7):
        return False
    code = around.memory.read(address - 7, 7)
    return code[2] == 0xE8 or any(
        code[-size] == 0xFF and code[1 - size] & 0x38 == 0x10 for size in (2, 3, 4, 6, 7)
    )
