"""What happens at the instructions that `emu.machine.scan` finds: each gets a hook of its own, other code pays nothing.

A block with such instructions is seen when it is translated, before it runs. It is then dropped, the hooks are installed, and the
block is translated again with them in it. So nothing happens before the instruction itself is reached, and registers are exact.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from emu.machine import scan
from emu.machine.arena import physical
from emu.machine.x87 import HostX87

if TYPE_CHECKING:
    from emu.machine.cpu import Cpu


class InstructionError(Exception):
    """An instruction that the machine cannot execute rightly, at `address`."""

    def __init__(self, address: int, name: str, why: str) -> None:
        super().__init__(f"{name} at {address:#x}: {why}")
        self.address, self.name, self.why = address, name, why


class _Planted(NamedTuple):
    """A special instruction that has a hook, and its bytes: other code may come to lie there."""

    special: scan.Special
    code: bytes


class Specials:
    """The special instructions of one CPU. `waiting` holds those found in a block that must be translated again."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._planted: dict[int, _Planted] = {}
        self.waiting: dict[int, int] = {}
        self._x87: HostX87 | None = None

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
        return fresh

    def plant(self) -> None:
        """Hook what was found, and drop its blocks. The CPU must be stopped."""
        hidden = self._cpu.hidden
        for address, end in self.waiting.items():
            if self._planted[address].special.action == scan.STORES_MXCSR and hidden is not None:
                self._cpu.hook_address(
                    address, hidden.gather_sse_flags
                )  # does no harm if other code comes to lie there
            else:
                self._cpu.hook_address(address, partial(self._reached, address))
            self._cpu.flush_code(address, end - address)
        self.waiting.clear()

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
        if self._x87 is None:
            self._x87 = HostX87(self._cpu.engine)
        if not self._x87.execute(code[-1]):
            raise InstructionError(
                address, "an unmasked x87 overflow or underflow", "its result is not emulated"
            )
        self._cpu.jump(address + len(code))
