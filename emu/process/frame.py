"""A hosted function in progress, as the runner keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.effects import Hosted
    from emu.kernel.run.task import Task
    from emu.machine.engine import Context


class Frame:
    """A hosted function in progress.

    `entry` is its trap, `rsp` the stack pointer there (at the caller's return address).

    `room` is how many bytes of arguments on the stack its calls of the guest may have.
    """

    __slots__ = ("back", "context", "entry", "generator", "preserve", "room", "rsp", "task")

    def __init__(
        self, generator: Hosted, entry: int, rsp: int, back: int, preserve: bool, room: int, task: Task
    ) -> None:
        self.generator, self.entry, self.rsp, self.back = generator, entry, rsp, back
        self.preserve, self.room, self.task = preserve, room, task
        self.context: Context | None = None
