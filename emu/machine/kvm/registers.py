"""The registers of the virtual CPU: words copied from and to its run page at each
exit, and an XSAVE image that is asked for.

In a trap RIP is still at the trap; callers see the instruction behind it.
Source: Intel SDM volume 1, 13 (XSAVE); Linux arch/x86/include/uapi/asm/sigcontext.h,
arch/x86/kernel/fpu/signal.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import cast

from emu.machine import regs
from emu.machine.engine import Context as AnyContext
from emu.machine.engine import HostPart, Noted, Undo
from emu.machine.kvm.vm import XSAVE_SIZE, Vm
from emu.machine.xstate import FXSAVE_SIZE, INITIAL_FXSAVE

ORDER = (*regs.GPRS, regs.FS_BASE, regs.GS_BASE)
RAX, RCX, RDX, RBP, RSP, R11, RIP, RFLAGS, FS, GS = 0, 2, 3, 6, 7, 11, 16, 17, 18, 19
COUNT = len(ORDER)
_PLACE = {register: index for index, register in enumerate(ORDER)}
_M64 = (1 << 64) - 1
_INTERRUPTS_ON = 0x202
_INITIAL = INITIAL_FXSAVE + bytes(XSAVE_SIZE - FXSAVE_SIZE)
_LEGACY = 416
"""Bytes of an FXSAVE image that the CPU knows; what is behind them is software's."""
_HEADER, _EXTENDED = 512, 576
_X87_SSE = 3
_MAGIC1, _MAGIC2 = 0x4650_5853, 0x4650_5845
_SOFTWARE = struct.Struct("<IIQI")
"""At byte 464: magic number, size with the second one, states, size."""
_SOFTWARE_AT, _MXCSR_AT, _MXCSR_MASK = 464, 24, 0xFFFF


class Context(Noted):
    """All registers of a guest thread; `in_trap` tells that RIP is still at the trap."""

    __slots__ = ("in_trap", "vectors", "words")

    def __init__(self) -> None:
        self.in_trap = False
        self.words = bytearray(8 * COUNT)
        self.vectors = b""

    def note(self) -> Undo:
        """Return what puts the present registers back."""
        in_trap, words, vectors = self.in_trap, bytes(self.words), self.vectors

        def undo() -> None:
            self.in_trap, self.vectors = in_trap, vectors
            self.words[:] = words

        return undo


class Batch(HostPart):
    """A fixed set of registers, read or written in one go."""

    __slots__ = ("_places", "_words", "values")

    def __init__(self, words: memoryview, registers: tuple[int, ...]) -> None:
        self._words = words
        self._places = tuple(_PLACE[register] for register in registers)
        self.values = memoryview(bytearray(8 * len(registers))).cast("Q")

    def read(self) -> None:
        """Fill `values` from the CPU."""
        words, values = self._words, self.values
        for index, place in enumerate(self._places):
            values[index] = words[place]

    def read_saved(self, context: AnyContext) -> None:
        """Fill `values` from a saved context."""
        words, values = memoryview(cast("Context", context).words).cast("Q"), self.values
        for index, place in enumerate(self._places):
            values[index] = words[place]

    def write(self) -> None:
        """Load the CPU's registers from `values`."""
        words, values = self._words, self.values
        for index, place in enumerate(self._places):
            words[place] = values[index]


class KvmRegisters(Noted):
    """The part of `KvmCpu` that is about registers; see `emu.machine.engine.Cpu`."""

    def __init__(self, vm: Vm, state_mask: int, state_size: int) -> None:
        self.vm = vm
        self._state_mask, self._state_size = state_mask, state_size
        self.words = memoryview(bytearray(8 * COUNT)).cast("Q")
        self.trap = self.words[:18]
        self.words[RFLAGS] = _INTERRUPTS_ON
        self.in_trap = False

    def get(self, register: int) -> int:
        """Return a 64-bit register."""
        value: int = self.words[_PLACE[register]]
        return value + 2 if self.in_trap and register == regs.RIP else value

    def set(self, register: int, value: int) -> None:
        """Store a 64-bit register."""
        if self.in_trap and register == regs.RIP:
            value -= 2
        self.words[_PLACE[register]] = value & _M64

    def batch(self, registers: tuple[int, ...]) -> Batch:
        """Return a batch over `registers` for repeated use."""
        return Batch(self.words, registers)

    def gprs(self) -> list[int]:
        """Return the registers in the order of `regs.GPRS`."""
        values = list(self.trap)
        if self.in_trap:
            values[RIP] += 2
        return values

    def gprs_of(self, context: AnyContext) -> list[int]:
        """Return the registers of a thread that does not run; in a trap RIP is at the trap."""
        return list(memoryview(cast("Context", context).words).cast("Q")[:18])

    def set_gprs(self, values: list[int]) -> None:
        """Load the registers in the order of `regs.GPRS`."""
        for index, value in enumerate(values):
            self.trap[index] = value & _M64
        if self.in_trap:
            self.trap[RIP] = values[RIP] - 2 & _M64

    def reset_fpu(self) -> None:
        """Give x87 and vector registers the state in which Linux starts a program and each signal handler."""
        self.vm.xrstor(_INITIAL)

    def fxsave(self) -> bytes:
        """Return the x87 and SSE state as a 512-byte FXSAVE64 image."""
        return self.vm.xsave()[:_LEGACY] + bytes(FXSAVE_SIZE - _LEGACY)

    def fxrstor(self, image: bytes) -> None:
        """Load the x87 and SSE state from a 512-byte FXSAVE64 image;
        the upper parts of vector registers stay.
        """
        full = bytearray(self.vm.xsave())
        full[:_LEGACY] = image[:_LEGACY]
        self._load(full, struct.unpack_from("<Q", full, _HEADER)[0] | _X87_SSE)

    def _load(self, image: bytearray, present: int) -> None:
        struct.pack_into("<Q", image, _HEADER, present & self._state_mask)
        image[_HEADER + 8 : _EXTENDED] = bytes(_EXTENDED - _HEADER - 8)
        image[_LEGACY:FXSAVE_SIZE] = bytes(FXSAVE_SIZE - _LEGACY)
        (mxcsr,) = struct.unpack_from("<I", image, _MXCSR_AT)
        struct.pack_into("<I", image, _MXCSR_AT, mxcsr & _MXCSR_MASK)
        self.vm.xrstor(bytes(image))

    def signal_state(self) -> bytes:
        """Return the state as it lies in a signal's frame:
        XSAVE's standard format, with a magic number at both ends.
        """
        size = self._state_size
        image = bytearray(self.vm.xsave()[:size])
        (present,) = struct.unpack_from("<Q", image, _HEADER)
        struct.pack_into("<Q", image, _HEADER, present | _X87_SSE)
        image[_LEGACY:FXSAVE_SIZE] = bytes(FXSAVE_SIZE - _LEGACY)
        _SOFTWARE.pack_into(image, _SOFTWARE_AT, _MAGIC1, size + 4, self._state_mask, size)
        return bytes(image) + struct.pack("<I", _MAGIC2)

    def load_signal_state(self, read: Callable[[int, int], bytes]) -> None:
        """Load the state from a signal's frame.

        Without both marks it is taken for FXSAVE, and the other states begin anew.
        """
        full = bytearray(read(0, FXSAVE_SIZE).ljust(XSAVE_SIZE, b"\0"))
        magic, extended, states, size = _SOFTWARE.unpack_from(full, _SOFTWARE_AT)
        present = _X87_SSE
        if magic == _MAGIC1 and _EXTENDED <= size <= self._state_size and extended >= size + 4:
            if read(size, 4) == struct.pack("<I", _MAGIC2):
                full[:size] = read(0, size)
                present = struct.unpack_from("<Q", full, _HEADER)[0] & states
        self._load(full, present)

    def save(self, into: AnyContext | None = None) -> Context:
        """Return a copy of all registers, in `into` if given."""
        context = Context() if into is None else cast("Context", into)
        context.in_trap = self.in_trap
        context.words[:] = self.words.cast("B")
        context.vectors = self.vm.xsave()
        return context

    def restore(self, context: AnyContext) -> None:
        """Load all registers from `context`; in or out of a trap, the CPU goes
        on where it would have then.
        """
        saved = cast("Context", context)
        self.words.cast("B")[:] = saved.words
        self.vm.xrstor(saved.vectors)
        if saved.in_trap is not self.in_trap:
            self.words[RIP] += 2 if saved.in_trap else -2

    def fork(self, stack: int | None, fs_base: int | None) -> Context:
        """Return the registers of a new thread: at a trap, those of the running one as `syscall` leaves them,
        with 0 in rax and another stack pointer and fs base where given.
        """
        context = self.save()
        words = memoryview(context.words).cast("Q")
        words[RAX], words[RCX], words[R11] = 0, self.trap[RIP] + 2, self.trap[RFLAGS]
        if stack is not None:
            words[RSP] = stack
        if fs_base is not None:
            words[FS] = fs_base
        return context
