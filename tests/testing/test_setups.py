"""What set-ups do in the guest is done once, and each test finds it as if it had been done for it alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from emu.testing.schedules import Schedule, ScheduledRun
from tools import fixtures

pytest_plugins = ["pytester"]
Runner = Callable[[str], pytest.RunResult]

COUNTED = """
    import ctypes, os, pytest, emu
    from emu.api.function import Calls
    from emu.api.linking import Linking
    done, made = [], []
    opens, calls, start = Linking._guest, Calls._call, emu.Process.__init__
    def counted(self, name, *args):
        done.append(name.decode())
        return opens(self, name, *args)
    def counted_call(self, function, args, task):
        done.append(function.name)
        return calls(self, function, args, task)
    def counted_start(self, *args, **options):
        made.append(self)
        start(self, *args, **options)
    Linking._guest, Calls._call, emu.Process.__init__ = counted, counted_call, counted_start
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, built_fixtures: object) -> Runner:
    """Run pytest on a file of tests that counts what is done in the guest;
    libcodec.so is beside it.
    """
    monkeypatch.setenv("PYTHONPATH", str(fixtures.ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(tests: str) -> pytest.RunResult:
        shutil.copy(fixtures.CACHE / "testing-codec" / "libcodec.so", pytester.path)
        shutil.copy(
            fixtures.CACHE / "testing-codec" / "unique" / "libcodec.so", pytester.path / "libother.so"
        )
        pytester.makepyfile(COUNTED + tests)
        return pytester.runpytest_subprocess("-p", "emu.testing.plugin", "-W", "error", "-rA")

    return run


def test_a_set_up_is_done_once_for_all_tests_and_schedules(run: Runner) -> None:
    result = run("""
    @pytest.fixture
    def codec(emu_process, emu_library):
        codec = emu_library("./libcodec.so")
        assert codec.decode(b"warm") == 4
        return codec
    @pytest.mark.parametrize("round", range(3))
    def test_finds_it_as_it_was(codec, round, emu_process):
        assert emu_process.rtld.by_address[codec.handle].direct_opencount == 1
        assert len(emu_process.events("dtor_registered")) == 2
        version = codec.in_dll(ctypes.c_int, "version")
        assert version.value == 3
        version.value = 4
    @pytest.mark.emu(schedules=6)
    def test_schedules(codec):
        assert codec.decode_all(2) == 8
    def test_types_are_the_tests_own(codec):
        assert codec.decode.argtypes is None and codec.decode.restype is ctypes.c_int
        codec.decode.argtypes, codec.decode.restype = [ctypes.c_char_p], ctypes.c_char
    def test_types_are_the_tests_own_indeed(codec):
        assert codec.decode.argtypes is None and codec.decode.restype is ctypes.c_int
    def test_count(request):
        assert (len(made), done.count("dlopen"), done.count("decode"), done.count("decode_all")) == (1, 1, 1, 6)
    """)
    result.assert_outcomes(passed=7)


def test_a_known_set_up_is_one_way_back_and_who_looks_before_sees_the_start(run: Runner) -> None:
    result = run("""
    from emu.process.snapshot import ProcessSnapshot
    back, restore = [], ProcessSnapshot.restore
    def counted_restore(self):
        back.append(self)
        restore(self)
    ProcessSnapshot.restore = counted_restore
    @pytest.fixture
    def codec(emu_process, emu_library):
        return emu_library("./libcodec.so")
    @pytest.mark.parametrize("round", range(4))
    def test_uses_it(codec, round):
        assert codec.decode(b"text") == 4
    @pytest.mark.emu(schedules=6)
    def test_schedules(codec):
        assert codec.decode_all(2) == 8
    def test_count():
        assert (len(made), done.count("dlopen"), len(back)) == (1, 1, 3 + 6)
    @pytest.mark.parametrize("look", [
        lambda process: [e for e in process.events("dl") if "codec" in str(e)],
        lambda process: process.ended or process.status,
        lambda process: [m for m in process.link_maps if "codec" in m.path],
        lambda process: list(process.libraries) and [x for x in process.libraries if not x.closed],
    ])
    def test_looks_first(look, emu_process):
        assert not look(emu_process)
        assert emu_process.dlopen("./libcodec.so").decode(b"text") == 4
    def test_no_such_attribute(emu_process):
        with pytest.raises(AttributeError, match="'emu.Process' object has no attribute 'dlopne'"):
            emu_process.dlopne
    """)
    result.assert_outcomes(passed=11)


def test_what_a_set_up_writes_is_written_for_each_test(run: Runner) -> None:
    result = run("""
    @pytest.fixture
    def libc(emu_process):
        libc = emu_process.dlopen("libc.so.6")
        libc.write(1, b"set up\\n", 7)
        return libc
    @pytest.mark.parametrize("round", range(3))
    def test_writes(libc, round, capfd):
        pass
    def test_count():
        assert (done.count("dlopen"), done.count("write")) == (1, 1)
    """)
    result.assert_outcomes(passed=4)
    assert result.outlines.count("set up") == 3


def test_other_files_are_another_set_up(run: Runner) -> None:
    result = run("""
    @pytest.fixture
    def seen(emu_process):
        libc = emu_process.dlopen("libc.so.6")
        there = libc.access(os.path.abspath("there").encode(), 0) == 0
        return there, emu_process.dlopen("./libcodec.so").symbol("version").size
    def test_without(seen):
        assert seen == (False, 4) and done.count("access") == 1
    def test_again(seen):
        assert seen == (False, 4) and done.count("access") == 1
        open("there", "w").close()
    def test_with(seen):
        assert seen == (True, 4) and done.count("access") == 2
        os.remove("libcodec.so")
    def test_no_library(request):
        with pytest.raises(emu.OpenError):
            request.getfixturevalue("seen")
    """)
    result.assert_outcomes(passed=4)


def test_a_set_up_that_did_something_else_before_is_done(run: Runner) -> None:
    result = run("""
    @pytest.fixture(params=["nothing", "environment", "memory", "interposed", "heard"])
    def before(request, emu_process):
        if request.param == "environment":
            emu_process.function("setenv")(b"LD_LIBRARY_PATH", b"/", 1)
        if request.param == "memory":
            emu_process.memory.new(b"text")
        if request.param == "interposed":
            emu_process.interpose("strlen", lambda text: 9)
        return request.param
    @pytest.fixture
    def codec(before, emu_process):
        heard = []
        if before == "heard":
            emu_process.listen(heard.append, ("dl",))
        codec = emu_process.dlopen("./libcodec.so")
        assert bool(heard) == (before == "heard")
        return codec
    def test_finds_it(codec, before):
        assert codec.decode(b"text") == (9 if before == "interposed" else 4)
    def test_once_more(codec, before):
        assert codec.decode(b"text") == (9 if before == "interposed" else 4)
    def test_count():
        # nothing: once for both; environment: a call, known the second time
        assert done.count("setenv") == 1
        assert done.count("dlopen") == 1 + 1 + 2 + 2 + 2
    """)
    result.assert_outcomes(passed=11)


def test_what_hangs_on_more_than_the_guest_is_done_each_time(run: Runner) -> None:
    result = run("""
    import threading
    @pytest.fixture
    def codec(emu_process):
        return emu_process.dlopen("./libcodec.so")
    @pytest.fixture
    def calls_python(codec, emu_process):
        libc, got = emu_process.dlopen("libc.so.6"), []
        compare = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda a, b: got.append(1) or 0)
        libc.qsort(ctypes.create_string_buffer(b"ab"), 2, 1, compare)
        return got
    @pytest.fixture
    def threads(codec):
        return codec.decode_all(2)
    @pytest.fixture
    def fails(codec):
        with pytest.raises(emu.GuestException):
            codec.decode(b"")
    @pytest.mark.parametrize("round", range(2))
    def test_python_answers(calls_python, round):
        assert calls_python
    @pytest.mark.parametrize("round", range(2))
    def test_threads(threads, round):
        assert threads == 8
    @pytest.mark.parametrize("round", range(2))
    def test_exceptions(fails, round):
        pass
    @pytest.mark.emu(explore=8)
    def test_search(threads):
        assert threads == 8
    def test_counts():
        assert (done.count("qsort"), done.count("decode")) == (2, 2)
        assert done.count("decode_all") > 3
    """)
    result.assert_outcomes(passed=8)


def test_random_schedules_of_a_test_may_end_between_any_two_instructions() -> None:
    policy = ScheduledRun(Schedule("random", 1)).policy()
    decisions = [policy.choose([1, 2]) for _ in range(64)]
    assert len({decision.instruction for decision in decisions}) > 32
