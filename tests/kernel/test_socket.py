"""Sockets with each other: messages, streams, shares, ends and errors. Source: unix(7), tcp(7), udp(7)."""

from __future__ import annotations

import errno

import pytest

from emu.kernel import abi
from emu.kernel.fs.pipe import make_pipe
from emu.kernel.net.network import pair
from emu.kernel.net.socket import MSG_PEEK, SHUT_RD, SHUT_WR, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Socket
from emu.kernel.net.socket_address import AF_INET, AF_UNIX
from tests.kernel.fakes import Volume, Watcher, Wire

_IN = abi.POLLIN | abi.POLLRDNORM


def _pair(kind: int = SOCK_STREAM, family: int = AF_UNIX) -> tuple[Socket, Socket]:
    wire = Wire()
    first, second = Socket(wire, family, kind, 0), Socket(wire, family, kind, 0)
    pair(first, second)
    for socket in (first, second):
        socket.hold()
    return first, second


def _fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


@pytest.mark.parametrize("family", [AF_UNIX, AF_INET])
def test_a_stream_has_no_messages(family: int) -> None:
    first, second = _pair(family=family)
    first.send(b"hello ")
    first.send(b"world")
    assert [second.read(8), second.read(8)] == [b"hello wo", b"rld"]
    with _fails(errno.EAGAIN):
        second.read(1)


def test_a_message_is_taken_whole_and_its_rest_is_lost() -> None:
    first, second = _pair(SOCK_SEQPACKET)
    first.send(b"long message")
    first.send(b"next")
    received = second.receive(4)
    assert (received.data, received.size) == (b"long", 12)
    assert second.read(9) == b"next"


def test_a_look_takes_nothing() -> None:
    first, second = _pair()
    first.send(b"abc")
    assert second.receive(2, MSG_PEEK).data == b"ab"
    assert second.read(9) == b"abc"


def test_a_sender_has_a_share_and_gets_it_back() -> None:
    first, second = _pair()
    sent = first.send(b"x" * 1_000_000)
    assert 0 < sent < 1_000_000
    assert not first.writable_now()
    with _fails(errno.EAGAIN):
        first.send(b"x")
    assert len(second.read(sent)) == sent
    assert first.writable_now()
    assert (first.used, first.network.under_way) == (0, 0)


def test_the_end_of_one_direction_is_seen_at_the_other_end() -> None:
    first, second = _pair()
    first.send(b"last")
    first.shut_down(SHUT_WR)
    assert [second.read(9), second.read(9)] == [b"last", b""]
    with _fails(errno.EPIPE):
        first.send(b"x")
    second.send(b"still")
    assert first.read(9) == b"still"
    second.shut_down(SHUT_RD)


def test_unread_bytes_at_the_end_break_the_connection() -> None:
    first, second = _pair()
    first.send(b"unread")
    second.release()
    with _fails(errno.ECONNRESET):
        first.read(1)
    assert first.read(1) == b""  # an error is told once
    assert first.network.forgotten == [second]  # type: ignore[attr-defined]


def test_a_connected_peer_that_is_gone_hangs_up() -> None:
    first, second = _pair()
    second.release()
    assert first.poll() & (abi.POLLHUP | _IN) == abi.POLLHUP | _IN
    assert first.read(1) == b""
    with _fails(errno.EPIPE):
        first.send(b"x")


def test_files_go_along_and_are_closed_when_nobody_takes_them() -> None:
    first, second = _pair()
    reader, writer = make_pipe(Volume(), 0)
    reader.hold()
    reader.hold()  # for the message
    first.send(b"x", (reader,))
    received = second.receive(9)
    assert received.files == (reader,)
    second.drop(received.files)
    assert reader.references == 1
    reader.hold()
    first.send(b"y", (reader,))
    second.release()
    assert reader.references == 1


def test_datagrams_say_who_sent_them() -> None:
    first, second = _pair(SOCK_DGRAM)
    first.send(b"x")
    assert second.receive(9).credentials == (1, 2, 3)


def test_a_message_beyond_the_share_is_refused() -> None:
    first, _ = _pair(SOCK_DGRAM)
    with _fails(errno.EMSGSIZE):
        first.send(b"x" * first.share)


def test_a_socket_that_is_not_connected() -> None:
    alone = Socket(Wire(), AF_UNIX, SOCK_STREAM, 0)
    with _fails(errno.ENOTCONN):
        alone.send(b"x")
    with _fails(errno.EINVAL):
        alone.read(1)
    assert alone.poll() & abi.POLLHUP


def test_watchers_hear_of_what_has_come() -> None:
    first, second = _pair()
    watcher = Watcher()
    second.watchers().append(watcher)
    first.send(b"x")
    first.shut_down(SHUT_WR)
    assert watcher.heard[0] == _IN
    assert len(watcher.heard) == 2
