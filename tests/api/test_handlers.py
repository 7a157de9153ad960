"""Handlers that call the guest: generators, in place of functions and at breakpoints."""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from typing import Any

import pytest

import emu

Handler = Generator[emu.Call, Any, Any]


def test_a_generator_in_the_place_of_a_function(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")

    def handler(x: int) -> Handler:
        length = yield emu.Call(libc.strlen, b"four")
        rest = yield emu.Call(inner.original, x)
        return length * 100 + rest

    with p.interpose("abs", handler, emu.CFUNCTYPE(ctypes.c_int, ctypes.c_int)) as inner:
        assert libc.abs(-7) == 407
    assert libc.abs(-7) == 7


def test_errors_of_calls_reach_the_generator(p: emu.Process, lib: emu.Library) -> None:
    def handler() -> Handler:
        try:
            yield emu.Call(lib.fail, 1)
        except emu.GuestException as error:
            return len(error.what or "")
        return 0

    with p.interpose("getpid", handler):
        assert p.function("getpid")() == len("no such basket")


def test_a_breakpoint_calls_the_guest_and_changes_nothing(p: emu.Process, lib: emu.Library) -> None:
    weigh = lib.weigh
    weigh.argtypes = [ctypes.c_int] * 7 + [ctypes.c_double, ctypes.c_int, ctypes.c_float]
    weigh.restype = ctypes.c_double
    arguments = (1, 2, 3, 4, 5, 6, 7, 8.0, 9, 10.0)
    plain = weigh(*arguments)
    touched, seen = [], []

    def handler(stop: emu.Breakpoint) -> Handler:
        before = stop["rsp"], stop["rdi"], stop.argument(6)
        touched.append((yield emu.Call(lib.touch, 1)))
        assert (stop["rsp"], stop["rdi"], stop.argument(6)) == before
        touched.append((yield emu.Call(p.function("strlen"), b"four")))
        seen.append(before[1:])
        assert stop.backtrace()[0].function == "weigh"

    with p.breakpoint(weigh, handler) as stop:
        assert weigh(*arguments) == plain
        assert weigh(*arguments) == plain
    assert stop.hits == 2
    assert touched == [1, 4, 2, 4]
    assert seen == [(1, 7)] * 2


def test_registers_set_after_a_call_of_the_guest_count(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")

    def handler(stop: emu.Breakpoint) -> Handler:
        stop["rdi"] = yield emu.Call(libc.strlen, b"seven??")

    with p.breakpoint("abs", handler):
        assert libc.abs(-3) == 7


def test_breakpoints_within_breakpoints(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")
    order: list[str] = []

    def outer(stop: emu.Breakpoint) -> Handler:
        order.append("outer")
        if stop.hits == 1:
            yield emu.Call(libc.abs, -1)
            yield emu.Call(libc.labs, -1)
        order.append("outer done")

    def inner(_stop: emu.Breakpoint) -> None:
        order.append("inner")

    with p.breakpoint("abs", outer), p.breakpoint("labs", inner):
        assert libc.abs(-3) == 3
    assert order == ["outer", "outer", "outer done", "inner", "outer done"]


def test_what_a_handler_raises_comes_out_and_the_guest_goes_on(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")

    def handler(_stop: emu.Breakpoint) -> Handler:
        yield emu.Call(libc.labs, -1)
        raise LookupError("mine")

    with p.breakpoint("abs", handler), pytest.raises(LookupError, match="mine"):
        libc.abs(-3)
    assert libc.abs(-3) == 3


def test_only_calls_may_be_yielded(p: emu.Process) -> None:
    libc = p.dlopen("libc.so.6")

    def handler(_stop: emu.Breakpoint) -> Generator[Any, Any, None]:
        yield

    with p.breakpoint("abs", handler), pytest.raises(emu.ArgumentError, match="yielded None: yield emu.Call"):
        libc.abs(-3)
    assert libc.abs(-3) == 3


def test_a_program_runs_to_a_breakpoint(built_fixtures: object, capfd: pytest.CaptureFixture[str]) -> None:
    from tools import fixtures

    with emu.Process("./main", ["c"], fixtures.BASE_ENV, cwd=str(fixtures.CACHE / "tls-dsos")) as p:
        # Not write: glibc writes what is left in stdout when all is finalised, where no snapshot can be
        # taken.
        stop = p.breakpoint("exit")
        assert p.step(stop) is stop
        assert stop["rdi"] == 0
        there = p.snapshot()
        assert p.run() == 0
        once = capfd.readouterr().out
        p.restore(there)
        assert p.run() == 0
        assert capfd.readouterr().out == once != ""
        assert p.step(stop) is None
