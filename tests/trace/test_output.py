"""Where a trace goes, and what must not happen to the user's files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from emu.core.events import Record, Syscall
from emu.trace import jsonl, text
from emu.trace.output import TraceClosed, TraceError, TraceWriter, open_output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGINNINGS = (text.BEGINNING, jsonl.BEGINNING)
RECORD = Record(1, 0, 1, Syscall(0, "read", "0", "0"))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(writer)


@pytest.mark.parametrize("before", [None, b"", text.BEGINNING.encode() + b"\nold", jsonl.BEGINNING.encode()])
def test_a_new_an_empty_and_a_trace_file_are_written_from_the_start(
    tmp_path: Path, before: bytes | None
) -> None:
    path = tmp_path / "trace"
    if before is not None:
        path.write_bytes(before)
    fd = open_output(str(path), BEGINNINGS)
    os.write(fd, b"new\n")
    os.close(fd)
    assert path.read_bytes() == b"new\n"


def test_another_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("chapter one")
    with pytest.raises(TraceError, match="thesis.txt: exists and is no trace"):
        open_output(str(path), BEGINNINGS)
    assert path.read_text() == "chapter one"
    os.close(open_output(str(path), BEGINNINGS, force=True))
    assert path.read_text() == ""


def test_devices_are_written_to_and_directories_refused(tmp_path: Path) -> None:
    os.close(open_output("/dev/null", BEGINNINGS))
    with pytest.raises(TraceError, match="Is a directory"):
        open_output(str(tmp_path), BEGINNINGS)
    with pytest.raises(TraceError, match="No such file or directory"):
        open_output(str(tmp_path / "no" / "file"), BEGINNINGS)


def test_a_buffered_writer_waits_and_an_unbuffered_one_does_not(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.set_blocking(reader, False)
    buffered = TraceWriter(fd, "pipe", text.render, buffered=True)
    buffered(RECORD)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    buffered.flush()
    once = os.read(reader, 4096)
    assert once == (text.render(RECORD) + "\n").encode()
    TraceWriter(fd, "pipe", text.render, buffered=False)(RECORD)
    assert os.read(reader, 4096) == once
    os.close(reader)


def test_a_gone_reader_ends_the_run_silently_with_sigpipes_code(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    os.close(reader)
    with pytest.raises(TraceClosed) as caught:
        TraceWriter(fd, "pipe", text.render, buffered=False)(RECORD)
    assert (str(caught.value), caught.value.exit_code) == ("", 141)


def test_a_full_disk_is_named() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(TraceError, match="/dev/full: No space left on device"):
            TraceWriter(fd, "/dev/full", text.render, buffered=False)(RECORD)
    finally:
        os.close(fd)
