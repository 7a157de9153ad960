"""Where a debugger connects: a port of the loopback interface or of a named one, a
Unix socket, or standard input and output.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from emu.core.errors import EXIT_USAGE, EmuError
from emu.gdb.packets import Connection

_PORTS = 1 << 16


class AddressError(EmuError):
    """There is no listening where the user wants it."""

    exit_code = EXIT_USAGE


class Listener:
    """Waits for one client after the other at `address`:
    [HOST:]PORT, unix:PATH or "-" (one client, on standard input and output).

    `name` is how a client is told of it. Raises AddressError.
    """

    def __init__(self, address: str) -> None:
        self._path = ""
        self._socket: socket.socket | None = None
        self.name = address
        if address == "-":
            return
        try:
            if address.startswith("unix:"):
                self._listen_at_path(address.removeprefix("unix:"))
            else:
                self._listen_at_port(address)
        except OSError as error:
            raise AddressError(f"--gdb {address}: {error.strerror or error}") from None

    def _listen_at_path(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._path = self.name = path
        self._socket.listen(1)

    def _listen_at_port(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) >= _PORTS:
            raise AddressError(f"--gdb {address}: give [HOST:]PORT, unix:PATH or -")
        self._socket = socket.create_server((host.strip("[]") or "127.0.0.1", int(port)), backlog=1)
        shown, number = self._socket.getsockname()[:2]
        self.name = f"{shown}:{number}"

    @contextmanager
    def client(self, on_break: Callable[[], None]) -> Iterator[Connection]:
        """Wait for a client; it is let go at the end."""
        if self._socket is None:
            yield Connection(0, 1, on_break)
            return
        accepted, _ = self._socket.accept()
        with accepted:
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield Connection(accepted.fileno(), accepted.fileno(), on_break)
            with suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)

    @property
    def lasts(self) -> bool:
        """Whether another client may come."""
        return self._socket is not None

    def close(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            self._socket.close()
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)
