"""The protocol's own rules, without a gdb."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.core.errors import EmuError
from emu.gdb.packets import Splitter, escape, frame, unescape
from emu.gdb.registers import NUMBERS, REGISTERS
from emu.gdb.signals import from_linux, to_linux
from emu.kernel.run.journal import Journal
from tests.gdb.support import folder
from tools import fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_binary_data_comes_back_as_it_was() -> None:
    data = bytes(range(256))
    assert unescape(escape(data)) == data
    assert not set(b"$#*") & set(escape(data))


def test_a_stream_is_taken_apart() -> None:
    splitter = Splitter()
    stream = b"+" + frame(b"qC") + b"-\x03" + b"$bad#00" + frame(b"g")
    items = [item for byte in stream for item in splitter.feed(bytes([byte]))]
    assert items == [b"qC", "again", "break", "bad", b"g"]


def test_signals_are_the_same_there_and_back() -> None:
    assert all(to_linux(from_linux(number)) == number for number in range(1, 65) if number != 16)
    assert from_linux(10) == 30 and from_linux(34) == 46


def test_registers_have_gdbs_places() -> None:
    offsets = [sum(register.size for register in REGISTERS[:number]) for number in (16, 24, 40)]
    assert offsets == [128, 164, 276] and NUMBERS["orig_rax"] == 57


def test_a_journal_repeats_what_was_answered() -> None:
    journal, asked = Journal(), iter(range(9))
    for _ in range(3):
        journal.ask("read", lambda: next(asked))
    with pytest.raises(OSError, match="no room"):
        journal.ask("write", _fail)
    journal.cursor = 1
    assert [journal.ask("read", lambda: 9) for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="no room"):
        journal.ask("write", lambda: 0)
    journal.cursor = 1
    with pytest.raises(EmuError, match="does not repeat"):
        journal.ask("poll", lambda: 0)
    journal.cut()
    assert journal.ask("poll", lambda: 5) == 5


def _fail() -> int:
    raise OSError(28, "no room")


class Client:
    """A client that sends what it is told."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.splitter = Splitter()
        self.items: list[bytes | str] = []

    def ask(self, packet: bytes) -> bytes:
        self.socket.sendall(frame(packet))
        while not any(isinstance(item, bytes) for item in self.items):
            self.items += self.splitter.feed(self.socket.recv(65536))
        answer = next(item for item in self.items if isinstance(item, bytes))
        self.items.remove(answer)
        self.socket.sendall(b"+")
        return answer


@pytest.fixture
def server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    program = folder(tmp_path_factory.mktemp("gdb-packets")) / "plain"
    path = str(tmp_path / "socket")
    words = [sys.executable, "-m", "emu", "run", "--gdb", f"unix:{path}", str(program)]
    environment = os.environ | {"PYTHONPATH": str(fixtures.ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"emu: waiting for gdb at")
        yield path, process
        process.kill()


def test_what_is_refused_is_refused_by_the_protocol(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    client = Client(server[0])
    features = client.ask(b"qSupported:multiprocess+;swbreak+")
    assert b"QNonStop" not in features and b"multiprocess+" in features
    assert client.ask(b"QNonStop:1") == b""
    assert client.ask(b"vMustReplyEmpty") == b""
    assert client.ask(b"m0,8") == b"E0e"
    assert client.ask(b"mzz,8") == b"E16"
    assert client.ask(b"Hgpffff.ffff") == b"E03"
    assert client.ask(b"Pff=00") == b"E.there is no register 255"
    assert client.ask(b"Z5,1000,1") == b""
    assert client.ask(b"vFile:open:2f746d702f78,241,1ff") == b"F-1,1e"
    assert client.ask(b"qXfer:features:read:other.xml:0,100") == b"E00"
    client.socket.close()


def test_one_client_comes_after_another(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    path, process = server
    first = Client(path)
    before = first.ask(b"g")
    assert first.ask(b"vCont;s:3e8").startswith(b"T05")
    first.socket.close()
    second = Client(path)
    assert second.ask(b"?").startswith(b"T05") and second.ask(b"g") != before
    assert second.ask(b"vCont;c") == b"W03"
    second.socket.close()
    assert process.wait(30) == 3
    assert process.stdout is not None and process.stdout.read() == b"debugger 45 2.50 8 \n"
