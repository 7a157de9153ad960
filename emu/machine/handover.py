"""Who serves a CPU's traps and the ends of its slices: the same for each engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.machine.engine import TrapHandler


class Handover:
    """The part of a CPU that hands traps and slices over."""

    on_trap: TrapHandler
    on_blocks: Callable[[], None]
    is_trap: Callable[[int], bool]
    read_tsc: Callable[[], int]

    def _no_handler(self) -> None:
        raise RuntimeError("no trap handler")

    def take_traps(self, handler: TrapHandler) -> TrapHandler:
        """Have `handler` serve traps from now on; return who has served them."""
        before, self.on_trap = self.on_trap, handler
        return before

    def take_blocks(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Have `handler` called at the end of slices from now on; return who was."""
        before, self.on_blocks = self.on_blocks, handler
        return before

    def know_traps(self, is_trap: Callable[[int], bool]) -> None:
        """Ask `is_trap` of an address whether a trap there is ours."""
        self.is_trap = is_trap

    def count_cycles_by(self, read_tsc: Callable[[], int]) -> None:
        """Give the guest what `read_tsc` gives for its time stamp counter."""
        self.read_tsc = read_tsc
