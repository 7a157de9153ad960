"""Packets of gdb's remote protocol: `$data#checksum`, with acknowledgements until both sides do without.

Source: gdb's manual, "Remote Protocol", Overview and Packet Acknowledgment.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

_ESCAPED = frozenset(b"}$#*")
_INTERRUPT = 3
MOST = 0x20000
"""The longest packet, in bytes."""


def escape(data: bytes) -> bytes:
    """Return binary data as it may stand in a packet."""
    out = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            out += bytes((0x7D, byte ^ 0x20))
        else:
            out.append(byte)
    return bytes(out)


def unescape(data: bytes) -> bytes:
    """Return what `escape` was given."""
    out = bytearray()
    escaped = False
    for byte in data:
        if escaped:
            out.append(byte ^ 0x20)
            escaped = False
        elif byte == 0x7D:
            escaped = True
        else:
            out.append(byte)
    return bytes(out)


def frame(data: bytes) -> bytes:
    """Return a packet with `data`, which is escaped already."""
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


class Splitter:
    """Takes the bytes of a stream apart into packets. A damaged one is `bad`, Ctrl-C is `broken_in`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes | str]:
        """Return what `data` completes: contents of packets,
        as they came, "bad", "again" (a packet of ours was damaged) and "break".
        """
        self._buffer += data
        found: list[bytes | str] = []
        while self._buffer:
            first = self._buffer[0]
            if first != 0x24:
                del self._buffer[0]
                if first in (_INTERRUPT, 0x2D):
                    found.append("break" if first == _INTERRUPT else "again")
                continue
            end = self._buffer.find(b"#")
            if end < 0 and len(self._buffer) > 2 * MOST:
                self._buffer.clear()
                found.append("bad")
            if end < 0 or len(self._buffer) < end + 3:
                break
            content, checksum = bytes(self._buffer[1:end]), bytes(self._buffer[end + 1 : end + 3])
            del self._buffer[: end + 3]
            found.append(content if checksum.lower() == b"%02x" % (sum(content) & 0xFF) else "bad")
        return found


class Connection:
    """One client.

    A thread reads what it sends, so that it can break in while the guest runs:
    `on_break` is called then, in that thread.
    """

    def __init__(self, reader: int, writer: int, on_break: Callable[[], None]) -> None:
        self._reader, self._writer, self._on_break = reader, writer, on_break
        self._packets: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._last = b""
        self.acknowledges = True
        threading.Thread(target=self._read, name="emu gdb", daemon=True).start()

    def receive(self) -> bytes | None:
        """Return the content of the next packet, unescaped by nobody yet; None when the client has gone."""
        return self._packets.get()

    def send(self, data: bytes) -> None:
        """Send a packet; nobody hears it once the client has gone."""
        self._last = frame(data)
        self._write(self._last)

    def _write(self, data: bytes) -> None:
        with self._lock:
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._writer, view) :]
            except (BrokenPipeError, ConnectionResetError):
                self._packets.put(None)

    def _read(self) -> None:
        splitter = Splitter()
        while True:
            try:
                data = os.read(self._reader, 1 << 16)
            except OSError:
                data = b""
            if not data:
                self._packets.put(None)
                return
            for item in splitter.feed(data):
                if item == "break":
                    self._on_break()
                elif item == "again":
                    self._write(self._last)
                elif item == "bad":
                    self._write(b"-")
                elif isinstance(item, bytes):
                    if self.acknowledges:
                        self._write(b"+")
                    self._packets.put(item)
