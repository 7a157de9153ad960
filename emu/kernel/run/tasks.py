"""The tasks of one process."""

from __future__ import annotations

from emu.kernel.run.task import Task


class Tasks(dict[int, Task]):
    """The tasks by their ids. The `leader` is the main thread, and stays it after its end."""

    __slots__ = ("leader",)

    def __init__(self) -> None:
        super().__init__()
        self.leader: Task

    def add(self, task: Task) -> None:
        """Enter a task; the first is the leader."""
        if not self:
            self.leader = task
        self[task.tid] = task
