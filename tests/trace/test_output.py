"""Where a trace goes, and what must not happen to the user's files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from emu.core.events import Record
from emu.core.task_events import Syscall
from emu.trace import jsonl, text
from emu.trace.output import TraceClosed, TraceError, TraceWriter, check_output, open_output, write_output
from tests.support import emu

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
    writer = TraceWriter(fd, str(path), str, buffered=True, fresh=True)
    writer.flush()
    assert path.read_bytes() == (before or b"")
    for line in ("new", "second"):
        writer.line(line)
        writer.flush()
    os.close(fd)
    assert path.read_bytes() == b"new\nsecond\n"


def test_another_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("chapter one")
    with pytest.raises(TraceError, match="thesis.txt: exists and is no trace"):
        open_output(str(path), BEGINNINGS)
    assert path.read_text() == "chapter one"
    os.close(open_output(str(path), BEGINNINGS, force=True))


@pytest.mark.parametrize("option", ["--trace-output", "--record-schedule"])
def test_a_program_that_is_not_there_leaves_the_file_of_the_last_run(tmp_path: Path, option: str) -> None:
    path = tmp_path / "last"
    words = ("run", option, str(path), *(("--trace", "libs") if option == "--trace-output" else ()))
    assert emu(*words, "/bin/true", cwd=tmp_path).exit == 0
    last = path.read_text()
    assert last
    assert emu(*words, "./no-such-program", cwd=tmp_path).exit == 127
    assert path.read_text() == last


def test_an_answer_is_replaced_when_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answer"
    write_output(str(path), "first")
    path.chmod(0o640)
    write_output(str(path), "second")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("second", 0o640)

    def full(_fd: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TraceError, match="answer: No space left on device"):
        write_output(str(path), "third", "answer")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_an_answer_may_go_into_a_pipe_or_where_no_file_can_be_made_beside_it(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    write_output(f"/dev/fd/{writer}", "told")
    assert os.read(reader, 16) == b"told"
    os.close(reader)
    path = tmp_path / "answer"
    path.write_text("a longer old one")

    def busy(_old: str, _new: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    write_output(str(path), "told")
    assert path.read_text() == "told"
    assert list(tmp_path.iterdir()) == [path]


def test_an_answer_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file or directory"):
        check_output(str(tmp_path / "no" / "file"))
    with pytest.raises(TraceError, match="Is a directory"):
        check_output(str(tmp_path))
    path = tmp_path / "thesis.txt"
    path.write_text("chapter one")
    with pytest.raises(TraceError, match="--force overwrites it"):
        check_output(str(path), BEGINNINGS, what="answer")
    check_output(str(path), BEGINNINGS, force=True)
    check_output(str(tmp_path / "new"), BEGINNINGS)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


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
