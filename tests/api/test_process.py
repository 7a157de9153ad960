"""Programs under Python's control: run, step, hooks, views, documentation."""

from __future__ import annotations

import ctypes
import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import emu
import emu.api
from tools import fixtures

_MODULES = [f"emu.api.{module.name}" for module in pkgutil.iter_modules(emu.api.__path__)]


@pytest.fixture
def start(built_fixtures: object, capfd: pytest.CaptureFixture[str]) -> Callable[..., emu.Process]:
    def start(name: str, *args: str, trace: tuple[str, ...] = (), program: str = "./main") -> emu.Process:
        return emu.Process(program, args, fixtures.BASE_ENV, cwd=str(fixtures.CACHE / name), trace=trace)

    return start


def test_run_is_the_program_s_own(
    start: Callable[..., emu.Process], capfd: pytest.CaptureFixture[str]
) -> None:
    with start("tls-dsos", "ca") as p:
        assert p.run() == 0
    done = subprocess.run(
        ["./main", "ca"],
        cwd=fixtures.CACHE / "tls-dsos",
        env=fixtures.BASE_ENV,
        capture_output=True,
        check=True,
    )
    assert capfd.readouterr().out.encode() == done.stdout


def test_a_program_can_be_called_before_it_runs(start: Callable[..., emu.Process]) -> None:
    with start("tls-dsos", "c") as p:
        assert p.function("touch_a")() is not None
        assert p.run() == 0
        with pytest.raises(emu.ClosedError):
            p.function("touch_a")()


def test_live_events_come_as_they_happen(
    start: Callable[..., emu.Process], capfd: pytest.CaptureFixture[str]
) -> None:
    with start("tls-dsos", "ca", trace=("dtors",)) as p:
        seen = [(e.name, e.owner.rpartition("/")[2]) for e in p.live("dtor_run")]
        assert seen == [("dtor_run", "liba.so"), ("dtor_run", "libc3.so")]
        assert p.status == 0


def test_steps_by_trap(start: Callable[..., emu.Process]) -> None:
    with start("tls-dsos", "c") as p:
        names = iter(lambda: p.step("trap"), None)
        assert "write" in list(names)
        assert p.status == 0


def test_a_static_program_runs_but_has_no_libraries(start: Callable[..., emu.Process]) -> None:
    with start("static-exe") as p:
        with pytest.raises(emu.StateError, match="static program"):
            p.dlopen("libc.so.6")
        assert p.run() == 12


def test_a_signal_is_a_status_and_a_report(start: Callable[..., emu.Process]) -> None:
    with start("death-signals", "null-read") as p:
        assert p.run() == 139
        assert "read of 0x0" in p.report


def test_the_time_is_given_or_always_the_same() -> None:
    for given, told in ((None, 1704067200), (86400, 86400)):
        with emu.Process(time=given) as p:
            assert p.dlopen("libc.so.6").time(None) == told
    with pytest.raises(emu.ArgumentError, match="time='today' is neither"):
        emu.Process(time="today")  # type: ignore[arg-type]


def test_what_the_guests_libc_cannot_do_is_refused() -> None:
    with pytest.raises(
        emu.ArgumentError, match="unload_rule nodelete-flag is not what the guest's libc does"
    ):
        emu.Process(unload_rule="nodelete-flag", tls_dtors="guest")


def test_tab_completes_functions(p: emu.Process, lib: emu.Library) -> None:
    names = dir(lib)
    assert {"touch", "fail", "read_at", "close", "path"} <= set(names)
    assert not {"answer", "printf", "level"} & set(names)
    lib.close()
    assert "touch" not in dir(lib)


def test_interposition_sees_every_caller(start: Callable[..., emu.Process]) -> None:
    written: list[int] = []
    with start("tls-dsos", "c") as p:

        def write(fd: int, data: int, size: int) -> int:
            written.append(size)
            return int(hook.original(fd, data, size))

        hook = p.interpose("write", write)
        assert p.run() == 0
    assert written


def test_interposed_malloc_is_libcs_own_too(p: emu.Process, lib: emu.Library) -> None:
    sizes: list[int] = []
    lib.basket_new.restype = ctypes.c_void_p

    def malloc(size: int) -> int:
        sizes.append(size)
        return int(hook.original(size))

    with p.interpose("malloc", malloc) as hook:
        assert lib.basket_new()
        assert sizes == [4]
        with pytest.raises(emu.GuestException):
            lib.fail(1)
        assert len(sizes) > 1
    count = len(sizes)
    lib.basket_new()
    assert len(sizes) == count


def test_breakpoints_read_and_change_registers(p: emu.Process, lib: emu.Library) -> None:
    callers = []

    def double(stop: emu.Breakpoint) -> None:
        callers.append(stop.backtrace()[0].function)
        stop["rdi"] = stop.argument(0) * 2

    with p.breakpoint(lib.touch, double) as stop:
        assert lib.touch(21) == 42
    assert (stop.hits, callers) == (1, ["touch"])
    assert lib.touch(1) == 43


def test_an_error_in_a_breakpoints_handler_reaches_the_caller(p: emu.Process, lib: emu.Library) -> None:
    def refuse(_stop: emu.Breakpoint) -> None:
        raise ValueError("stop")

    with p.breakpoint(lib.touch, refuse), pytest.raises(ValueError, match="stop"):
        lib.touch(1)
    assert lib.touch(1) == 2


def test_tls_shows_layout_and_pending_destructors(p: emu.Process, lib: emu.Library) -> None:
    with p.thread() as t:
        assert p.tls(t).destructors == ()
        t.call(lib.touch, 1)
        tls = p.tls(t)
        (pending,) = tls.destructors
        assert (pending.name, pending.owner) == ("shop::Noisy::~Noisy()", "./libplugin.so")
        module = next(m for m in tls if m.name == "./libplugin.so")
        assert module.block is not None
        assert module.block <= pending.object < module.block + module.size
        assert p.tls().destructors == ()


def test_views_are_tables_and_html(p: emu.Process, lib: emu.Library) -> None:
    assert repr(p.link_maps).splitlines()[0].split()[:2] == ["name", "address"]
    for view in (p.link_maps, p.scopes(lib), p.tls(), p.events("dl"), p.threads, p.why_loaded(lib)):
        assert view._repr_html_().startswith("<table>")


def test_explain_is_the_analysis(p: emu.Process, lib: emu.Library) -> None:
    answer = p.explain("malloc", from_object="libplugin.so")
    assert answer.symbol == "malloc"
    assert repr(answer).startswith("malloc\n")
    assert "what would change it:" in repr(answer)


def test_what_is_not_traced_is_an_error_not_nothing(p: emu.Process) -> None:
    with pytest.raises(emu.Error, match=r"Process\(trace=\['syscalls'\]\)"):
        p.events("syscalls")
    with pytest.raises(emu.Error, match="no events 'nothing'"):
        p.events("nothing")


def test_same_process_same_events(built_fixtures: object, capfd: pytest.CaptureFixture[str]) -> None:
    def once() -> list[str]:
        with emu.Process(
            cwd=str(fixtures.CACHE / "api-plugin"),
            env=fixtures.BASE_ENV,
            trace="all",
            schedule="random",
            seed=3,
        ) as p:
            lib = p.dlopen("./libplugin.so")
            with p.thread() as t:
                t.call(lib.touch, 2)
            lib.close()
        return [str(e) for e in p.events()]

    assert once() == once()


@pytest.mark.parametrize("module", _MODULES)
def test_examples_in_the_documentation_run(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_the_command_line_does_not_load_the_python_face() -> None:
    code = "import emu, emu.cli.main, sys; sys.exit('emu.api' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=fixtures.ROOT)


def test_the_example_of_the_readme_runs(built_fixtures: object) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", (fixtures.ROOT / "README.md").read_text(), re.DOTALL)
    env = {**os.environ, "PYTHONPATH": str(fixtures.ROOT), "LD_LIBRARY_PATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=fixtures.CACHE / "api-plugin",
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "libplugin.so stays loaded:\n  - it has 1 pending thread_local destructor" in done.stdout
    assert "of thread 1001 (emu-host), which waits for Python" in done.stdout
    assert "  thread's object destroyed after 42" in done.stdout


_USER = """
import ctypes, emu
def use() -> int:
    with emu.Process(trace=["dl"]) as p:
        lib: emu.Library = p.dlopen("libc.so.6", emu.RTLD_NOW)
        lib.abs.argtypes, lib.abs.restype = [ctypes.c_int], ctypes.c_int
        with p.thread("t") as t:
            t.call(lib.abs, -1)
        for event in p.events("dl"):
            print(event.sequence + 1, event.name.upper())
        with p.interpose("abs", lambda x: x) as hook:
            hook.original(1)
        value: ctypes.c_int = p.memory.view(ctypes.c_int, 4096)
        why = p.why_loaded(lib)
        for reason in why:
            print(reason.kind.upper(), reason.since.place if reason.since else "", *(one.flags for one in reason.opens))
        print(why.kept and why.loaded, [remedy.text for remedy in why.remedies], why.unknown)
        print(value.value, p.link_maps.find("libc.so.6"), [one.variable for one in p.destroyed])
        return p.memory.new(b"x")
"""


@pytest.mark.needs("mypy")
def test_users_code_type_checks(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(_USER)
    shutil.copy(fixtures.SOURCES / "testing-codec" / "test_codec.py", tmp_path)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(tmp_path / "user.py"),
        str(tmp_path / "test_codec.py"),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(fixtures.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
