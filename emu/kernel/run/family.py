"""What ties a process to others: parent and children, its group and session, and how it ended.

Source: credentials(7), wait(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.kernel import abi

if TYPE_CHECKING:
    from emu.kernel.run.task import Task

INIT = 1
"""Whose children orphans are. It waits for them at once: nobody sees them as zombies."""


class Shares(NamedTuple):
    """What a child has together with its parent, rather than a copy of:
    memory, directory and umask, descriptors.

    `clear_handlers`: handlers are the parent's alone (CLONE_CLEAR_SIGHAND).
    """

    memory: bool = False
    directory: bool = False
    files: bool = False
    clear_handlers: bool = False


class Family:
    """One process among others, all of them named by their ids.

    - `pid`, `parent`: its id, its parent's
    - `group`, `session`: the process group and the session that it belongs to
    - `children`: those that it has, the oldest first, zombies included
    - `status`: the wait status once it has ended (a zombie), None before
    - `exit_signal`: what the parent is sent at its end (0: nothing)
    - `news`: "stopped" or "continued" where the parent may still be told of that
    - `subreaper`: whether orphans below it become its children (PR_SET_CHILD_SUBREAPER)
    - `executed`: whether it has called execve since fork (then its parent may not change its group)
    - `vfork`: the thread that waits until this process needs its memory no more, None otherwise
    - `maker`: the id of the parent's thread that has made it
    - `copied`, `left`: threads whose ids its copied memory may have, each with its process: those that its
      main thread is the copy of; those that lived at a fork and that fork has not copied
    - `waiters`: its own tasks that wait for a child
    - `children_cpu`: what children that were waited for have used, in nanoseconds of CPU time
    """

    __slots__ = (
        "children", "children_cpu", "copied", "executed", "exit_signal", "group", "left", "maker", "news", "parent", "pid", "session",
        "status", "subreaper", "vfork", "waiters",
    )  # fmt: skip

    def __init__(
        self, pid: int, parent: int, group: int, session: int, exit_signal: int = abi.SIGCHLD
    ) -> None:
        self.pid, self.parent, self.group, self.session, self.exit_signal = (
            pid,
            parent,
            group,
            session,
            exit_signal,
        )
        self.children: list[int] = []
        self.maker = parent
        self.copied: dict[int, int] = {}
        self.left: dict[int, int] = {}
        self.status: int | None = None
        self.news = ""
        self.subreaper = self.executed = False
        self.vfork: Task | None = None
        self.waiters: list[Task] = []
        self.children_cpu = 0
