"""`Process.why_loaded`: the answer of `emu why` in the middle of a process's
life, with Python among the callers.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest

import emu
from emu.process.symbols import Symbols
from tests import support
from tools import fixtures

HERE = os.path.relpath(__file__)


def _line(text: str) -> int:
    """The number of the first line of this file that has a text."""
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if text in line)


def test_the_whole_answer(p: emu.Process) -> None:
    lib = p.dlopen("./libplugin.so")  # the place
    told = re.sub(r"\d+\.\d{9} s", "T s", repr(p.why_loaded(lib)))
    place = f"{HERE}:{_line('# the place')}"
    assert told == (
        "./libplugin.so stays loaded:\n"
        "  - it is open: 1 dlopen without dlclose\n"
        f"    opened at {place} (NOW)\n"
        f"        test_the_whole_answer ({place})\n"
        "  to let it go:\n"
        f"    * dlclose libplugin.so once more: it was opened at {place} in test_the_whole_answer"
    )
    html = p.why_loaded(lib)._repr_html_()
    assert "it is open" not in html and "./libplugin.so is open: 1 dlopen without dlclose" in html
    assert "to let it go" in html


def test_functions_and_lines_are_read_when_they_are_asked_for(
    p: emu.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(Symbols, "code")
        lib = p.dlopen("./libplugin.so")  # seen
        p.dlopen("libm.so.6").close()
        lib.touch(1)
    (reason,) = [reason for reason in p.why_loaded(lib) if reason.code == "open-count"]
    assert reason.opens[0].opened.place == f"{__file__}:{_line('# seen')}"


def test_what_is_not_traced_is_said(built_fixtures: object) -> None:
    with emu.Process(cwd=str(fixtures.CACHE / "api-plugin"), env=fixtures.BASE_ENV, trace=["dtors"]) as p:
        lib = p.dlopen("./libplugin.so")
        why = p.why_loaded(lib)
        assert why[0].opens == ()
        assert why.unknown == (
            'who opened it, and when, since dl is not traced: say Process(trace=["dtors", "dl"])',
        )
        assert f"  not known: {why.unknown[0]}" in repr(why)


def test_pending_destructors_are_known_without_a_trace(built_fixtures: object) -> None:
    with emu.Process(cwd=str(fixtures.CACHE / "api-plugin"), env=fixtures.BASE_ENV) as p:
        lib = p.dlopen("./libplugin.so")
        with p.thread("worker") as t:
            t.call(lib.touch, 1)
            lib.close()
            (reason,) = p.why_loaded(lib)
            (pending,) = reason.destructors
            assert (pending.type, pending.registered) == ("shop::Noisy", None)
            assert (pending.thread.name, pending.thread.state) == ("worker", "waiting")


def test_asked_in_a_call_the_chain_of_callers_is_pythons_too(p: emu.Process, lib: emu.Library) -> None:
    told: list[emu.Reasons] = []

    @emu.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    def again(n: int) -> int:
        lib.touch(n)
        told.append(p.why_loaded(lib))
        return n

    lib.descend(again, 1)
    opened, destructors = told[0]
    assert opened.kind == "open-count"
    (pending,) = destructors.destructors
    assert pending.registered is not None
    functions = [f.function for f in pending.registered.backtrace if f.object == "[Python]"]
    test = "test_asked_in_a_call_the_chain_of_callers_is_pythons_too"
    assert functions == [f"{test}.<locals>.again", test]
    assert pending.thread.what == "for Python"


def test_what_has_gone_and_what_never_was(p: emu.Process, lib: emu.Library) -> None:
    lib.close()
    gone = p.why_loaded(lib)
    assert not gone.loaded and not gone.kept and len(gone) == 0
    told = r"\./libplugin\.so has gone: it was unloaded by dlclose in Python \(.*test_why\.py:\d+\)"
    assert re.fullmatch(told, repr(gone))
    assert "no object libplugn.so is loaded" in repr(p.why_loaded("libplugn.so"))


def test_another_object_may_get_the_handle(tmp_path: Path) -> None:
    (tmp_path / "empty.c").write_text("int nothing;\n")
    for name in ("liba.so", "libb.so"):
        support.compile_c(tmp_path, "-shared", "-fPIC", "-o", name, "empty.c")
    with emu.Process(cwd=str(tmp_path)) as p:
        first = p.dlopen("./liba.so")
        first.close()
        second = p.dlopen("./libb.so")
        assert second.handle == first.handle
        assert (first.loaded, second.loaded) == (False, True)
        assert "./liba.so has gone" in repr(p.why_loaded(first))


def test_a_fault_ends_at_the_line_of_python(p: emu.Process, lib: emu.Library) -> None:
    with pytest.raises(emu.GuestFault) as caught:
        lib.read_at(0)  # the fault
    fault = caught.value
    last = fault.backtrace[-1]
    assert (last.object, last.file, last.line) == ("[Python]", __file__, _line("# the fault"))
    assert str(fault).endswith(f"({__file__}:{last.line}) [Python]")
    assert p.status == 139
    (reason,) = p.why_loaded(lib)
    assert reason.kind == "open-count"


def test_a_snapshot_takes_the_history_along(built_fixtures: object) -> None:
    folder = str(fixtures.CACHE / "testing-codec")
    with emu.Process(cwd=folder, env=fixtures.BASE_ENV, trace=["dl", "dtors"], check=True) as p:
        lib = p.dlopen("./libcodec.so")
        lib.decode(b"x")
        before, told = p.snapshot(), repr(p.why_loaded(lib))
        with p.thread() as t:
            t.call(lib.decode, b"x")
        lib.close()
        assert len(p.destroyed) == 2
        assert [reason.kind for reason in p.why_loaded(lib)] == ["tls-destructors"]
        p.restore(before)
        assert len(p.destroyed) == 0
        assert repr(p.why_loaded(lib)) == told
        with p.thread() as t:
            t.call(lib.decode, b"x")
        lib.close()
        assert len(p.destroyed) == 2
        p.close()
        assert [finding.rule for finding in p.findings()] == ["dlclose-no-effect"]
        p.restore(before)
        assert lib.loaded and not p.ended
        assert len(p.findings()) == 0
