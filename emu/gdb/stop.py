"""Why a guest stands still, as a debugger is told."""

from __future__ import annotations

from emu.core.record import NamedTuple

SIGINT, SIGTRAP = 2, 5


class Stop(NamedTuple):
    """The guest stands still in thread `tid`.

    - `signal`: a Linux signal that has come and has not acted yet, SIGTRAP for all that the debugger asked
      for, SIGINT if it broke in
    - `reason`, `value`: a stop reason of the remote protocol (swbreak, watch, library, syscall_entry,
      replaylog, ...) and what goes with it
    - `text`: a line for the user, if there is more to say
    - `status`, `killed`: the exit status, or the signal that ended the process; both None while it lives
    """

    tid: int
    signal: int = SIGTRAP
    reason: str = ""
    value: str = ""
    text: str = ""
    status: int | None = None
    killed: int | None = None

    @property
    def over(self) -> bool:
        """Whether the process has ended."""
        return self.status is not None or self.killed is not None
