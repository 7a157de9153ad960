"""Pipes: pages, ends, readiness, and who is woken. Source: pipe(7)."""

from __future__ import annotations

import errno

import pytest

from emu.kernel import abi
from emu.kernel.fs.anonymous import EventFile
from emu.kernel.fs.pipe import DEFAULT_CAPACITY, Pipe, PipeEnd, make_pipe
from tests.kernel.fakes import Volume, Watcher

_IN, _OUT = abi.POLLIN | abi.POLLRDNORM, abi.POLLOUT | abi.POLLWRNORM


def _ends() -> tuple[PipeEnd, PipeEnd]:
    reader, writer = make_pipe(Volume(), 0)
    for end in (reader, writer):
        end.hold()
    return reader, writer


def _fails(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


def test_bytes_come_out_as_they_went_in() -> None:
    reader, writer = _ends()
    assert writer.write(b"hello ") + writer.write(b"world") == 11
    assert [reader.read(4), reader.read(100)] == [b"hell", b"o world"]
    with _fails(errno.EAGAIN):
        reader.read(1)


def test_small_writes_share_a_page_and_large_ones_fill_whole_ones() -> None:
    volume = Volume()
    pipe = Pipe(volume, make_pipe(volume, 0)[0].stat())
    for _ in range(4):
        pipe.put(b"x" * 1000)
    assert len(pipe.pages) == 1
    assert pipe.put(b"y" * 5000) == 5000
    assert [len(page.data) for page in pipe.pages] == [4000, 4096, 904]  # 904 more would not have fitted


def test_a_full_pipe_takes_nothing_and_a_page_less_makes_room() -> None:
    reader, writer = _ends()
    assert writer.write(b"z" * (DEFAULT_CAPACITY + 10)) == DEFAULT_CAPACITY
    assert writer.poll() == 0
    with _fails(errno.EAGAIN):
        writer.write(b"z")
    reader.read(4095)
    assert writer.poll() == 0  # the page is still there
    reader.read(1)
    assert writer.poll() == _OUT


def test_the_end_of_the_last_writer_is_the_end_of_the_bytes() -> None:
    reader, writer = _ends()
    writer.write(b"last")
    writer.release()
    assert reader.poll() == _IN | abi.POLLHUP
    assert [reader.read(9), reader.read(9)] == [b"last", b""]
    assert reader.poll() == abi.POLLHUP


def test_a_pipe_without_a_reader_is_broken() -> None:
    reader, writer = _ends()
    reader.release()
    assert writer.poll() == _OUT | abi.POLLERR
    with _fails(errno.EPIPE):
        writer.write(b"x")


def test_duplicates_keep_an_end_open() -> None:
    reader, writer = _ends()
    writer.hold()
    writer.release()
    assert reader.poll() == 0
    writer.release()
    assert reader.poll() == abi.POLLHUP


def test_watchers_hear_of_bytes_of_room_and_of_the_end() -> None:
    reader, writer = _ends()
    at_reader, at_writer = Watcher(), Watcher()
    reader.watchers().append(at_reader)
    writer.watchers().append(at_writer)
    writer.write(b"x")
    reader.read(1)
    assert (at_reader.heard, at_writer.heard) == ([_IN], [])  # nobody can have waited for room
    writer.write(b"x" * DEFAULT_CAPACITY)
    reader.read(abi.PAGE_SIZE)
    assert at_writer.heard == [_OUT]
    writer.release()
    assert abi.POLLHUP & at_reader.heard[-1]


def test_an_event_counter() -> None:
    event = EventFile(Volume(), 2, False, 0)
    event.write((5).to_bytes(8, "little"))
    assert event.poll() == _IN | _OUT
    assert event.read(8) == (7).to_bytes(8, "little")
    with _fails(errno.EAGAIN):
        event.read(8)
    with _fails(errno.EINVAL):
        event.write(b"\xff" * 8)


def test_a_semaphore_gives_one_at_a_time() -> None:
    event = EventFile(Volume(), 2, True, 0)
    assert [event.read(8)[0] for _ in range(2)] == [1, 1]
    with _fails(errno.EAGAIN):
        event.read(8)
