"""What emu.Process is given: right, or an error that says what would be."""

from __future__ import annotations

import ctypes
import io
import math
import os
from typing import TYPE_CHECKING, Any

import pytest

import emu
from tools import fixtures

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HELLO = fixtures.CACHE / "hello-printf"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"schedule": "rnd"}, "schedule='rnd': choose from 'round-robin', 'random'"),
        ({"schedule": 3}, "schedule=3"),
        ({"tls_dtors": "x"}, "tls_dtors='x': choose from 'model', 'guest'"),
        ({"unload_rule": "x"}, "unload_rule='x': choose from 'dtor-count', 'nodelete-flag'"),
        *(({"timeout": t}, "no positive number of seconds") for t in (-1, 0, math.nan, math.inf, "3", True)),
        ({"trace": "d"}, "no category 'd'"),
        ({"trace": ["dl", "nothing"]}, "no category 'nothing'"),
        ({"cwd": "nowhere"}, "nowhere' is no folder"),
        ({"sysroot": "/nowhere"}, "sysroot /nowhere: no such folder"),
        ({"writable": "/tmp"}, r"write writable=\['/tmp'\]"),
        ({"args": "abc"}, r"write args=\['abc'\]"),
        ({"args": [1]}, "args: 1 is no string"),
        ({"env": {"A": 1}}, "'A': 1"),
        ({"env": {"A=B": "1"}}, "name of a variable"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "a"}, "seed='a'"),
        ({"max_memory": -1}, "max_memory=-1"),
        ({"program": "/bin/true", "args": ["a\0b"]}, "args: a string has a NUL"),
        ({"time": "noon"}, "time='noon'"),
        ({"trace": "dl,nothing"}, "no category 'nothing'"),
        ({"trace": ["bindings:malloc"]}, "by Process.events"),
        ({"program": ["/bin/true"]}, r"program=\['/bin/true'\] is no path"),
        ({"program": 5}, "program=5 is no path"),
        ({"cwd": 5}, "cwd=5 is no path"),
        ({"sysroot": 5}, "sysroot=5 is no path"),
        ({"program": "/bin/true", "args": "a", "env": "b"}, r"write args=\['a'\]"),
        ({"env": ["A=1"]}, "no mapping of names"),
        ({"stdin": 1.5}, "stdin=1.5 is neither an open file nor a descriptor"),
        ({"stdout": io.BytesIO()}, "stdout=.* is neither"),
        ({"stderr": -1}, "stderr=-1 is no descriptor"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(emu.ArgumentError, match=complaint):
        emu.Process(**given)


def test_a_library_is_no_program() -> None:
    folder = fixtures.build("tls-dsos")
    for given in ({"program": folder / "liba.so"}, {"program": "./liba.so", "cwd": folder}):
        with pytest.raises(
            emu.ArgumentError, match=r"liba.so is a library .*: make an emu.Process\(\) and dlopen"
        ):
            emu.Process(**given)


def test_one_category_needs_no_list() -> None:
    with emu.Process(trace="dl,fini") as process:
        process.dlopen("libm.so.6")
        assert process.events("dl")


def test_a_program_may_be_bytes() -> None:
    assert emu.Process(b"/bin/true").run() == 0  # type: ignore[arg-type] # as subprocess takes them


def test_a_library_without_a_slash_is_searched_and_one_in_the_folder_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "libhere.so").touch()
    with emu.Process(cwd=tmp_path) as p:
        with pytest.raises(emu.OpenError, match="libhere.so: cannot open shared object file") as error:
            p.dlopen("libhere.so")
        assert error.value.__notes__ == [
            "the file here is ./libhere.so: a name without a slash is searched for"
        ]
        with pytest.raises(emu.OpenError, match="cannot open shared object file") as error:
            p.dlopen("libnowhere.so")
        assert not hasattr(error.value, "__notes__")


def test_a_program_without_a_slash_is_searched_in_the_guests_path(tmp_path: Path) -> None:
    process = emu.Process("true", env={"PATH": "/nowhere:/bin"})
    assert process.inner.config.program == "/bin/true"
    assert process.run() == 0
    with pytest.raises(emu.Error, match="nothing-of-that-name: command not found"):
        emu.Process("nothing-of-that-name")


def test_a_program_counts_from_the_guests_folder(
    built_fixtures: object, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fixtures.CACHE)
    assert emu.Process("./main", cwd=HELLO.name).run() == 0
    assert capfd.readouterr().out


def test_what_is_no_address_or_name_is_refused_before_the_guest_sees_it() -> None:
    with emu.Process() as process:
        calls: tuple[Callable[[int], object], ...] = (
            process.function_at,
            process.breakpoint,
            process.dlclose,
        )
        for call in calls:
            for address in (-1, 1 << 64):
                with pytest.raises(emu.ArgumentError, match="is no address"):
                    call(address)
        with pytest.raises(emu.SymbolNotFoundError):
            process.lookup("")
        assert process.dlopen(b"libm.so.6").path == "libm.so.6"


def test_closing_no_handle_ends_the_guest_as_natively() -> None:
    with emu.Process() as process, pytest.raises(emu.GuestFault, match="0x337"):
        process.dlclose(0)


def test_events_are_kept_up_to_a_number_and_then_said_to_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emu.api.place.MOST_RECORDS", 20)
    told: list[object] = []
    with emu.Process(trace="syscalls") as process:
        process.listen(told.append, ("syscalls",))
        assert len(process.events()) == len(process.events("syscalls")) < 20
        getppid = process.function("getppid")
        for _ in range(40):
            getppid()
        assert len(told) >= 40
        assert len(process.place.records) == 20
        for kind in (None, "syscalls"):
            with pytest.raises(emu.Error, match="20 events are kept of a process, and .* more came"):
                process.events(kind)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has what this takes away")
@pytest.mark.parametrize("as_root", [False, True])
def test_writable_as_root(as_root: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o755)
    with emu.Process(writable=[str(tmp_path)], writable_as_root=as_root) as process:
        path = str(tmp_path / "file").encode()
        chown, chmod = process.function("chown"), process.function("chmod")
        for function, words in ((chown, (1234, 1234)), (chmod, (0o4755,))):
            function.restype = ctypes.c_int
            assert function(path, *words) == (0 if as_root else -1)
    found = (tmp_path / "file").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == ((1234, 0o4755) if as_root else (0, 0o755))
