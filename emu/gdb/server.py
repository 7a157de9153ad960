"""The server: one client after the other, until the process is over or let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.gdb.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.gdb.listen import Listener
    from emu.gdb.target import Target
    from emu.process import Result


def serve(target: Target, listener: Listener, tell: Callable[[str], None]) -> Result | None:
    """Serve the clients of `listener`; return how the process ended, None if it was killed.

    `tell` takes lines for the user. Raises EmuError.
    """
    try:
        while True:
            with listener.client(lambda: target.execution.interrupt()) as connection:
                session = Session(target, connection)
                session.serve()
            if session.done and session.detached:
                return target.release()
            if session.done:
                return target.result()
            if not listener.lasts:
                return None
            tell("emu: the debugger has gone; waiting for the next one")
    finally:
        listener.close()
