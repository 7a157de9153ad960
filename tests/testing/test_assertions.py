"""The assertions without pytest: what they accept, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import emu
from emu.testing import assert_dtor_order, assert_loaded, assert_no_findings, assert_unloaded
from tools import fixtures


@pytest.fixture
def p(built_fixtures: object, capfd: pytest.CaptureFixture[str]) -> Iterator[emu.Process]:
    folder = str(fixtures.CACHE / "testing-codec")
    with emu.Process(cwd=folder, env=fixtures.BASE_ENV, trace=["dtors", "dl"], check=True) as process:
        yield process


@pytest.fixture
def lib(p: emu.Process) -> emu.Library:
    return p.dlopen("./libcodec.so")


def test_loaded_and_unloaded(p: emu.Process, lib: emu.Library) -> None:
    assert_loaded(lib)
    assert_loaded("libcodec.so", p)
    with pytest.raises(AssertionError, match=r"(?s)\./libcodec\.so is not unloaded\n.*it is open: 1 dlopen"):
        assert_unloaded(lib)
    lib.close()
    assert_unloaded(lib)
    assert_unloaded("libcodec.so", p)
    with pytest.raises(
        AssertionError, match=r"\./libcodec\.so is not loaded\n.*unloaded by dlclose in Python"
    ):
        assert_loaded(lib)


def test_a_name_that_was_never_loaded_is_not_unloaded(p: emu.Process, lib: emu.Library) -> None:
    with pytest.raises(AssertionError, match=r"no object libcodex\.so is loaded; nearest: .*libcodec\.so"):
        assert_unloaded("libcodex.so", p)
    with pytest.raises(TypeError, match="libcodec.so is a name: in which process?"):
        assert_unloaded("libcodec.so")


def test_nothing_keeps_it_but_it_is_there(p: emu.Process, lib: emu.Library) -> None:
    with p.thread() as thread:
        thread.call(lib.decode, b"x")
        lib.close()
    with pytest.raises(AssertionError, match="a dlclose that collects in its namespace must come after that"):
        assert_unloaded(lib)


@pytest.mark.parametrize(
    "expected",
    [
        ["codec::Cache", "codec::Log"],
        ["Cache", "Log"],
        ["cache", "codec::history"],
        ["~Cache()", "codec::Log::~Log()"],
        ["libcodec.so", "./libcodec.so"],
        [("Cache", "worker", "libcodec.so"), "worker"],
    ],
)
def test_names_of_destructors(
    p: emu.Process, lib: emu.Library, expected: list[str | tuple[str, ...]]
) -> None:
    assert_dtor_order(p, [])
    with p.thread("worker") as thread:
        thread.call(lib.decode, b"x")
    assert_dtor_order(p, expected)
    assert_dtor_order(p, expected, library="libcodec.so")
    assert_dtor_order(p, [], library="libm.so.6")
    with pytest.raises(AssertionError):
        assert_dtor_order(p, expected[::-1][1:])


def test_the_difference_has_threads_places_and_what_is_pending(p: emu.Process, lib: emu.Library) -> None:
    lib.decode(b"x")
    with p.thread("worker") as thread:
        thread.call(lib.decode, b"x")
    with pytest.raises(AssertionError) as caught:
        assert_dtor_order(p, ["Cache", "Log", "Cache"])
    told = re.sub(r"[^\s\[]*/codec\.cc", "codec.cc", str(caught.value))
    assert told == (
        "destructors of thread_local objects ran otherwise (- expected, + ran)\n"
        "    Cache  codec::Cache (codec::cache) of ./libcodec.so in thread 1001 (worker) [codec.cc:39]\n"
        "    Log    codec::Log (codec::history) of ./libcodec.so in thread 1001 (worker) [codec.cc:15]\n"
        "  - Cache\n"
        "  pending: codec::Cache::~Cache() of ./libcodec.so in thread 1000 (emu-host) [codec.cc:39]\n"
        "  pending: codec::Log::~Log() of ./libcodec.so in thread 1000 (emu-host) [codec.cc:15]"
    )
    assert [(one.variable, one.thread) for one in p.destroyed] == [
        ("codec::cache", 1001),
        ("codec::history", 1001),
    ]


def test_findings_end_the_process(p: emu.Process, lib: emu.Library) -> None:
    lib.decode(b"x")
    lib.close()
    assert len(p.findings()) == 0
    with pytest.raises(
        AssertionError, match=r"emu check: warning \[dlclose-no-effect\]: .* left \./libcodec\.so loaded"
    ):
        assert_no_findings(p)
    assert p.status == 0
    assert [finding.rule for finding in p.findings()] == ["dlclose-no-effect"]
    assert p.findings()._repr_html_().startswith("<table>")


def test_a_crash_at_the_end_is_no_finding_but_fails(p: emu.Process, lib: emu.Library) -> None:
    p.function("__cxa_atexit")(8, None, None)
    with pytest.raises(emu.GuestFault, match="jump to 0x8"):
        assert_no_findings(p)


def test_what_is_not_watched_is_an_error(built_fixtures: object) -> None:
    with emu.Process() as p:
        with pytest.raises(emu.Error, match=r"Process\(trace=\['dtors'\]\)"):
            assert_dtor_order(p, [])
        with pytest.raises(emu.Error, match=r"Process\(check=True\)"):
            assert_no_findings(p)
    with emu.Process("/bin/true", check=True) as program, pytest.raises(emu.StateError, match="is not over"):
        assert_no_findings(program)
    with pytest.raises(emu.Error, match="no rule 'none'"):
        emu.Process(check=["none"])
