"""What happens at the instructions that `emu.machine.scan` finds:
each gets a hook of its own, other code pays nothing.

A block with such instructions is seen when it is translated, before it runs. It is then dropped, the hooks
are installed, and the block is translated again with them in it. So nothing happens before the instruction
itself is reached, and registers are exact.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import regs, scan
from emu.machine.arena import physical
from emu.machine.engine import InstructionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.machine.cpu import UnicornCpu
    from emu.machine.x87 import HostX87
    from emu.machine.x87_hook import NativeHooks

    Seek = Callable[[int, bytes], Iterable[tuple[int, Callable[[], None]]]]
    """Asked of a block, by its address and bytes:
    addresses of instructions, each with what is to be called before it runs.
    """


class _Planted(NamedTuple):
    """A special instruction that has a hook, and its bytes: other code may come to lie there."""

    special: scan.Special
    code: bytes


class Specials:
    """The special instructions of one CPU. `waiting` holds those found in a block
    that must be translated again.
    """

    def __init__(self, cpu: UnicornCpu) -> None:
        self._cpu = cpu
        self._planted: dict[int, _Planted] = {}
        self.waiting: dict[int, int] = {}
        self._x87: HostX87 | None = None
        self._native: NativeHooks | None = None
        self._seek: Seek | None = None
        self._sought: dict[int, Callable[[], None]] = {}

    def seek(self, seek: Seek) -> None:
        """Ask `seek` of each block, too, which of its instructions have a callback."""
        self._seek = seek

    def look(self, start: int, size: int) -> bool:
        """Look through a block just translated; whether it must not run before `plant` was called."""
        at = physical(start)
        code = self._cpu.arena.mapping[at : at + size]
        fresh = False
        for special in scan.find_special(code):
            address = start + special.offset
            if address not in self._planted:
                fresh = True
                self.waiting[address] = start + size
            end = special.offset + special.size if special.size else size
            self._planted[address] = _Planted(special, code[special.offset : end])
        if self._seek is not None:
            for address, callback in self._seek(start, code):
                if address not in self._sought:
                    fresh = True
                    self.waiting[address] = start + size
                self._sought[address] = callback
        return fresh

    def plant(self) -> None:
        """Hook what was found, and drop its blocks. The CPU must be stopped."""
        hidden = self._cpu.hidden
        for address, end in self.waiting.items():
            if address not in self._planted:
                self._cpu.hook_address(address, partial(self._found, address))
            elif self._planted[address].special.action == scan.STORES_MXCSR and hidden is not None:
                self._cpu.hook_address(
                    address, hidden.gather_sse_flags
                )  # does no harm if other code comes to lie there
            elif self._planted[address].special.action == scan.X87:
                self._plant_x87(address, self._planted[address].code)
            else:
                self._cpu.hook_address(address, partial(self._reached, address))
            self._cpu.flush_code(address, end - address)
        self.waiting.clear()

    def _plant_x87(self, address: int, code: bytes) -> None:
        from emu.machine.x87 import HostX87  # few programs compute so
        from emu.machine.x87_hook import NativeHooks, usable

        engine = self._cpu.engine
        self._x87 = self._x87 or HostX87(engine)
        reached = partial(self._reached, address)
        if len(code) != 2 or not usable():
            self._cpu.hook_address(address, reached)
            return
        self._native = self._native or NativeHooks(self._x87, engine.function("uc_reg_write"), regs.RIP)
        self._cpu.hook_special(address, code, reached, self._native)

    def _found(self, address: int) -> None:
        self._sought[address]()

    def _reached(self, address: int) -> None:
        special, code = self._planted[address]
        cpu = self._cpu
        at = physical(address)
        if cpu.arena.mapping[at : at + len(code)] != code:
            return  # what had the hook is gone from there
        if special.action == scan.REFUSED:
            raise InstructionError(address, special.name, special.why)
        if special.action == scan.PROTECTED:
            cpu.raise_exception(13, special.error)
        elif special.action == scan.X87:
            self._compute(address, code)
        elif cpu.hidden is not None:
            cpu.hidden.clear_sse_flags()

    def _compute(self, address: int, code: bytes) -> None:
        assert self._x87 is not None
        if not self._x87.execute(code[-1]):
            raise InstructionError(
                address, "an unmasked x87 overflow or underflow", "its result is not emulated"
            )
        self._cpu.jump(address + len(code))
