"""Makes Unicorn's CPU a user's CPU, and finds the two fields of its state that no register gives access to.

Unicorn starts at ring 0, where privileged instructions just run. A SYSRET at start-up takes it to ring 3,
with the selectors that Linux gives to user code. What Unicorn keeps from everyone is read out of a saved
context: the exception in flight, which it never forgets (a second one would be a double fault), and the
exception flags of SSE operations, which it does not put into MXCSR.

Source: Intel SDM volume 2, SYSRET; QEMU target/i386/cpu.h: CPUX86State.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.machine import regs
from emu.machine.arena import HIGH_END, PAGE_SIZE, PROT_EXEC, PROT_READ

if TYPE_CHECKING:
    from emu.machine.cpu import UnicornCpu

_EFER, _STAR = 0xC0000080, 0xC0000081
_LMA_LME_SCE = 0x501
_USER_BASE = 0x23
_PAGE = HIGH_END - 2 * PAGE_SIZE
_CODE = bytes.fromhex("480f07 0f05 f4 f30f5ec1 0f05")
"""sysretq; syscall; hlt; divss xmm0, xmm1; syscall"""
_USER, _HALT, _DIVIDE = _PAGE + 3, _PAGE + 5, _PAGE + 6
_INTERRUPTS_ON = 0x202
_ONE, _THREE = struct.pack("<f", 1.0), struct.pack("<f", 3.0)
_INEXACT = 0x20
_NONE = struct.pack("<i", -1)


_SSE_FLAGS = 0x3D
"""softfloat's flags that MXCSR has at the same bits: invalid, zero divide, overflow, underflow, inexact."""


class HiddenState:
    """Access to what no register shows, at its places in Unicorn's state:
    the exception in flight (int32), SSE's flags (byte).
    """

    def __init__(self, cpu: UnicornCpu, in_flight: int, sse_flags: int) -> None:
        self._cpu, self._in_flight, self._sse_flags = cpu, in_flight, sse_flags
        self._context = cpu.save()
        self._state = self._context.state()
        self._mxcsr = cpu.batch((regs.MXCSR,))
        self._added = -1
        self._save, self._engine, self._saved = (
            cpu.engine.raw_context_save,
            cpu.engine.handle,
            self._context.handle,
        )

    def forget_exception(self) -> None:
        """The exception has been dealt with."""
        self._patch(self._in_flight, _NONE)

    def gather_sse_flags(self) -> None:
        """Add to MXCSR the exceptions that SSE operations have raised.

        libm's functions read MXCSR at each call, so this must be fast: flags that were added before cost one
        look.
        """
        self._save(self._engine, self._saved)
        raised = self._state[self._sse_flags] & _SSE_FLAGS
        if raised != self._added:
            self._added = raised
            self._mxcsr.read()
            self._mxcsr.values[0] |= raised
            self._mxcsr.write()

    def registers_replaced(self) -> None:
        """Other registers are loaded: what was added to the old MXCSR says nothing of the new one."""
        self._added = -1

    def clear_sse_flags(self) -> None:
        """Forget the exceptions that SSE operations have raised: MXCSR has all that count."""
        self._added = 0
        self._patch(self._sse_flags, b"\0")

    def _patch(self, at: int, value: bytes) -> None:
        self._cpu.engine.context_save(self._context.handle)
        self._state[at : at + len(value)] = value
        self._cpu.engine.context_restore(self._context.handle)


def enter_ring3(cpu: UnicornCpu) -> HiddenState:
    """Take a new CPU to ring 3 and find its hidden state.

    Raises EmuError if Unicorn's state is not laid out as it should be.

    Uses a page of the arena while nothing is mapped yet.
    """
    arena = cpu.arena
    arena.set_perms(_PAGE, PAGE_SIZE, PROT_READ | PROT_EXEC)
    start = arena.offset(_PAGE, 0)
    arena.mapping[start : start + len(_CODE)] = _CODE
    cpu.engine.write_msr(_EFER, _LMA_LME_SCE)
    cpu.engine.write_msr(_STAR, _USER_BASE << 48)
    clean = cpu.gprs()
    cpu.set(regs.RCX, _USER)
    cpu.set(regs.R11, _INTERRUPTS_ON)
    on_trap = cpu.take_traps(cpu.stop)
    cpu.run(_PAGE)
    image = bytearray(cpu.fxsave())
    before = bytes(cpu.save().state())
    cpu.run(_HALT)
    in_flight = _one_change(before, bytes(cpu.save().state()), _NONE, struct.pack("<i", 13))
    image[160:164], image[176:180] = _ONE, _THREE
    cpu.fxrstor(bytes(image))
    cpu.set(regs.RIP, _DIVIDE)
    before = bytes(cpu.save().state())
    cpu.run(_DIVIDE)
    sse_flags = _one_change(before, bytes(cpu.save().state()), b"\0", bytes((_INEXACT,)))
    cpu.take_traps(on_trap)
    arena.mapping[start : start + len(_CODE)] = bytes(len(_CODE))
    arena.set_perms(_PAGE, PAGE_SIZE, 0)
    cpu.flush_code(_PAGE, PAGE_SIZE)
    cpu.engine.flush_tlb()
    clean[regs.GPRS.index(regs.RFLAGS)] = _INTERRUPTS_ON
    cpu.set_gprs(clean)
    image[160:192] = bytes(32)
    cpu.fxrstor(bytes(image))
    hidden = HiddenState(cpu, in_flight, sse_flags)
    hidden.forget_exception()
    hidden.clear_sse_flags()
    return hidden


def _one_change(before: bytes, after: bytes, old: bytes, new: bytes) -> int:
    size = len(old)
    places = [
        at
        for at in range(0, len(before), size)
        if before[at : at + size] == old and after[at : at + size] == new
    ]
    if len(places) != 1:
        raise EmuError(f"unicorn: {len(places)} places in a context could be what is looked for")
    return places[0]
