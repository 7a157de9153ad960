"""The pytest plugin, as its users run it: on the tests of a plugin with and
without defects, and on tests made for the purpose.
"""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest

import emu
from emu.testing import plugin, settings
from tools import fixtures

pytest_plugins = ["pytester"]

CODEC = fixtures.SOURCES / "testing-codec"
Runner = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, built_fixtures: object) -> Runner:
    """Run pytest on the files of the folder with a build of libcodec.so in it;
    no other plugins than those named are there.
    """
    monkeypatch.setenv("PYTHONPATH", str(fixtures.ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for variable in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(*options: str, build: str = ".") -> pytest.RunResult:
        shutil.copy(fixtures.CACHE / "testing-codec" / build / "libcodec.so", pytester.path)
        return pytester.runpytest_subprocess("-p", "emu.testing.plugin", "--strict-markers", *options)

    return run


@pytest.fixture
def codec(pytester: pytest.Pytester) -> None:
    shutil.copy(CODEC / "test_codec.py", pytester.path)


def _errors(result: pytest.RunResult) -> str:
    """The lines of pytest's report that tell of errors, with what differs from run to run taken out."""
    lines = [line[1:].strip() for line in result.outlines if line.startswith("E ")]
    told = re.sub(r"0x[0-9a-f]{6,}", "0xADDRESS", "\n".join(lines))
    told = re.sub(r"\d+\.\d{9} s", "T s", told)
    return re.sub(r"[^\s\[]*/codec\.cc", "codec.cc", told)


# -- the example ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("codec")
def test_the_example_passes(run: Runner) -> None:
    run("--emu-schedules=4", "-W", "error").assert_outcomes(passed=5)


@pytest.mark.usefixtures("codec")
def test_the_defects_are_told_of_and_the_schedule_can_be_repeated(
    run: Runner, pytester: pytest.Pytester
) -> None:
    result = run(build="defect")
    result.assert_outcomes(passed=2, failed=3)
    told = _errors(result)
    order = (
        "AssertionError: destructors of thread_local objects ran otherwise (- expected, + ran)\n"
        "+                  codec::Log (codec::history) of ./libcodec.so in thread 1001 (worker) [codec.cc:15]\n"
        "Cache            codec::Cache (codec::cache) of ./libcodec.so in thread 1001 (worker) [codec.cc:39]\n"
        "- history, worker\n"
    )
    assert order in told
    # Which schedule it is hangs on the libc's code: 14 with Debian 12's, 21 with 13's.
    line = r"emu: schedule (random:\d+), number \d+ of 20, fails; to repeat it: "
    ((schedule, command),) = re.findall(f"^{line}(.*)$", told, re.MULTILINE)
    assert command == f"pytest test_codec.py::test_no_thread_is_lost --emu-schedule={schedule}"
    found = (
        "AssertionError: emu check finds something\n"
        "emu check: warning [key-destructor-unloaded]: the destructor of pthread key 0, codec::forget(void*) in ./libcodec.so,"
        " is left behind by the unloading of ./libcodec.so\n"
        "at dlclose (dlclose.c:31) [libc.so.6+0xADDRESS]\n"
        "at test_unloads_and_leaves_nothing (test_codec.py:42) [Python]\n"
    )
    assert found in re.sub(r"\+0x[0-9a-f]+", "+0xADDRESS", told)

    again = run(*shlex.split(command)[1:], build="defect")
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["E * assert [48] == 12"])
    other = run("test_codec.py::test_no_thread_is_lost", "--emu-schedule=round-robin", build="defect")
    other.assert_outcomes(passed=1)


@pytest.mark.usefixtures("codec")
def test_a_library_that_stays_is_told_of_with_what_keeps_it(run: Runner) -> None:
    result = run("-k", "unloads", build="unique")
    result.assert_outcomes(failed=1, deselected=4)
    assert _errors(result) == (
        "AssertionError: ./libcodec.so is not unloaded\n"
        "./libcodec.so stays loaded:\n"
        "- it is open: its count is 1, since dlclose of a NODELETE object does not count\n"
        "opened at test_codec.py:13 (NOW)\n"
        "codec (test_codec.py:13)\n"
        "closed in vain at test_codec.py:42\n"
        "- it is NODELETE since it defines the STB_GNU_UNIQUE symbol codec::Registry<int>::entries for its whole namespace\n"
        "codec::Registry<int>::entries, looked up for ./libcodec.so, at test_codec.py:13\n"
        "codec (test_codec.py:13)\n"
        "to let it go:\n"
        "* compile libcodec.so with -fno-gnu-unique, or give codec::Registry<int>::entries internal linkage or hidden visibility"
    )


@pytest.mark.usefixtures("codec")
def test_workers_of_xdist(run: Runner) -> None:
    result = run("-p", "xdist", "-n", "2", "--emu-schedules=20", build="defect")
    result.assert_outcomes(passed=2, failed=3)
    assert re.search(r"emu: schedule random:\d+, number \d+ of 20, fails", _errors(result))


# -- schedules and fixtures ----------------------------------------------------------------------------------


def test_each_schedule_has_fixtures_of_its_own(run: Runner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_made="""
        import pytest
        log = []
        @pytest.fixture(scope="module")
        def module():
            log.append("module")
            yield
            log.append("over")
        @pytest.fixture
        def codec(module, emu_process, emu_library):
            log.append("new" if emu_process.threads[0].tid == 1000 and not emu_process.link_maps.find("libcodec.so") else "old")
            yield emu_library("./libcodec.so")
            log.append("done")
        @pytest.mark.emu(schedules=3)
        def test_threads(codec):
            print("loud" + "er" * len(log))
            assert codec.decode_all(2) == 8
        @pytest.mark.emu(schedules=3)
        def test_no_choice_no_repetition(codec):
            assert codec.decode(b"x") == 1
        def test_after(module):
            assert log == ["module"] + ["new", "done"] * 4
        @pytest.mark.emu(schedules=5)
        def test_fails_in_a_teardown(codec, emu_process, request):
            codec.decode_all(2)
            number = log.count("new")
            request.addfinalizer(lambda: 1 / (7 - number))
        @pytest.mark.emu(schedules=5)
        def test_skips(codec):
            pytest.skip("not here")
        """,
        test_other="""
        from test_made import log
        def test_the_module_was_left():
            assert log[-1] == "over"
        """,
    )
    result = run("--durations=0", "-rA")
    result.assert_outcomes(passed=5, errors=1, skipped=1)
    assert "ZeroDivisionError: division by zero\nemu: schedule random:1, number 3 of 5, fails" in _errors(
        result
    )
    assert result.outlines.count("louderer") == 0 and "louder" in result.stdout.str()
    assert sum(line.startswith("louder") for line in result.outlines) == 1  # the last run's, not all


def test_a_guest_that_forks_is_tested_as_any(run: Runner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest
        from emu.testing import assert_no_findings
        @pytest.fixture
        def libc(emu_process):
            return emu_process.dlopen("libc.so.6")
        @pytest.mark.emu(schedules=3)
        def test_runs_a_command(emu_process, libc):
            assert libc.system(b"for i in 1 2; do sh -c 'exit 3' & done; wait $!") == 3 << 8
            assert_no_findings(emu_process)
        def test_leaves_a_child_behind(libc):
            libc.system(b"sleep 100 &")
        def test_is_alone_again(libc):
            assert libc.wait(None) == -1
        def test_a_child_dies(emu_process, libc):
            assert libc.system(b"kill -ABRT $$") == 6
            assert_no_findings(emu_process)
        """)
    result = run("-W", "error")
    result.assert_outcomes(passed=3, failed=1)
    assert "error [died]: killed by SIGABRT" in _errors(result)


def test_a_process_is_used_again_as_if_it_were_new(run: Runner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import ctypes, os, pytest, shutil, emu
        seen = []
        def test_leaves_much_behind(emu_process):
            libc = emu_process.dlopen("libc.so.6")
            seen.append((emu_process, libc.rand()))
            emu_process.interpose("rand", lambda: 7)
            emu_process.breakpoint("abs", lambda stop: 1 / 0)
            assert libc.rand() == 7
            assert libc.setenv(b"LEFT", b"behind", 1) == 0
            emu_process.memory.new(b"here")
        def test_dies(emu_process):
            assert emu_process is seen[0][0]
            with pytest.raises(emu.GuestFault):
                emu_process.function_at(8)()
        def test_finds_nothing_of_it(emu_process):
            assert emu_process is seen[0][0]
            libc = emu_process.dlopen("libc.so.6")
            assert libc.rand() == seen[0][1]
            assert libc.abs(-3) == 3
            libc.getenv.restype = ctypes.c_char_p
            assert libc.getenv(b"LEFT") is None
            assert not emu_process.ended
            assert list(emu_process.events("dtors")) == []
        @pytest.mark.emu(env={"A": "b"})
        def test_other_arguments_are_another_process(emu_process):
            assert emu_process is not seen[0][0]
        def test_another_environment_is_another_process(monkeypatch, request):
            monkeypatch.setenv("A", "c")
            process = request.getfixturevalue("emu_process")
            libc = process.dlopen("libc.so.6")
            libc.getenv.restype = ctypes.c_char_p
            assert process is not seen[0][0] and libc.getenv(b"A") == b"c"
        @pytest.mark.parametrize("round", [0, 1, 2])
        def test_programs(emu_program, round, tmp_path_factory):
            path = tmp_path_factory.getbasetemp() / "program"
            if round == 0:
                shutil.copy("/bin/true", path)
            if round == 2:
                shutil.copy("/bin/false", path)
            process = emu_program(path)
            assert process.run() == (1 if round == 2 else 0)
            assert (round == 1) == (process in seen)
            seen.append(process)
    """)
    run().assert_outcomes(passed=8)


def test_what_is_left_open_is_closed_and_a_crash_ends_cleanly(run: Runner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import ctypes, pytest, emu, emu.testing
        left = []
        def test_leaves_things(emu_process, emu_library):
            first, second = emu_library("./libcodec.so"), emu_library("libm.so.6")
            second.close()
            left.extend([first, second])
        def test_they_are_closed():
            assert [lib.closed for lib in left] == [True, True]
            assert left[0].process.status == 0
        def test_expected_fault(emu_process, emu_library):
            codec = emu_library("./libcodec.so")
            with pytest.raises(emu.GuestFault):
                emu_process.function_at(8)()
            assert codec.loaded
        def test_fault(emu_library, emu_process):
            emu_library("./libcodec.so")
            emu_process.function_at(8)()
        def test_no_such_file(emu_library):
            emu_library("./libnone.so")
        @pytest.mark.emu(check=["no-such-rule"])
        def test_wrong_rule(emu_process):
            pass
        @pytest.mark.emu(unload_rule="nodelete-flag", seed=5, env={"A": "b"}, trace=["libs"], schedule="random:3", check=False)
        def test_arguments(emu_process):
            config = emu_process.inner.config
            assert (config.unload_rule, config.seed, config.env) == ("nodelete-flag", 5, {"A": "b"})
            assert [len(emu_process.events(kind)) > 0 for kind in ("libs", "dtors")] == [True, False]
            with pytest.raises(emu.Error, match="check=True"):
                emu_process.findings()
        @pytest.mark.emu(tls_dtors="guest")
        def test_the_guests_own_destructors(emu_process, emu_library):
            codec = emu_library("./libcodec.so")
            with emu_process.thread() as thread:
                thread.call(codec.decode, b"x")
            emu.testing.assert_dtor_order(emu_process, ["cache", "history"])
        def test_program(emu_program):
            process = emu_program("/bin/echo", "hello")
            assert process.run() == 0
    """)
    result = run("-rA")
    result.assert_outcomes(passed=6, failed=2, errors=1)
    told = _errors(result)
    assert "GuestFault: emu-host: killed by SIGSEGV: jump to 0x8" in told
    assert "OpenError: ./libnone.so: cannot open shared object file: No such file or directory" in told
    assert "Error: no rule 'no-such-rule': choose from unloaded-use," in told
    result.stdout.no_fnmatch_line("*engine.py*")
    result.stdout.fnmatch_lines(["hello"])


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        (
            "scedules=3",
            "no argument 'scedules' (did you mean 'schedules'?); there are schedules, schedule, explore, seed,",
        ),
        ("50", "arguments of the marker have names, such as schedules=50"),
        ("schedules=0", "schedules=0: a whole number from 1 on is wanted"),
        ("seed='x'", "seed='x': a whole number from 0 on is wanted"),
        ("schedule='fair'", "schedule='fair': choose round-robin, random:SEED or replay:FILE"),
        ("schedule='random:3', schedules=4", "schedules, schedule and explore exclude each other"),
        ("unload_rule='never'", "unload_rule='never': choose from dtor-count, nodelete-flag"),
        ("trace=['dll']", "trace: no category 'dll'; there are libs, dl,"),
        ("trace='dl'", "trace='dl': a list of categories, or \"all\""),
    ],
)
def test_a_wrong_marker_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, marker: str, told: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(f"import pytest\n@pytest.mark.emu({marker})\ndef test_it(emu_process): pass\n")
    result = pytester.runpytest_inprocess("-p", "emu.testing.plugin", "-p", "no:terminalreporter")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"test_it: marker emu: {told}" in result.stderr.str()


def test_a_wrong_marker_under_xdist(run: Runner, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.emu(scedules=3)\ndef test_it(emu_process): pass\n")
    result = run("-p", "xdist", "-n", "2")
    result.assert_outcomes(errors=1)
    assert (
        "UsageError: test_a_wrong_marker_under_xdist.py::test_it: marker emu: no argument 'scedules'"
        in _errors(result)
    )


@pytest.mark.parametrize("option", ["--emu-schedule=fair", "--emu-schedule=random:x", "--emu-schedules=0"])
def test_a_wrong_option_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.runpytest_inprocess("-p", "emu.testing.plugin", option)
    name, _, value = option.partition("=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"argument {name}: {value!r} is no " in result.stderr.str()


def test_help_and_markers(run: Runner) -> None:
    told = run("--help").stdout.str()
    assert "--emu-schedule=POLICY[:SEED]" in told and "--emu-schedules=N" in told
    assert (
        "@pytest.mark.emu(schedules=..., schedule=..., explore=..., seed=..., trace=..., env=..."
        in run("--markers").stdout.str()
    )


# -- the package ---------------------------------------------------------------------------------------------


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((fixtures.ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"emu": plugin.__name__}
    assert not any(word.startswith("pytest") for word in project["dependencies"])


def test_the_marker_takes_what_a_process_takes() -> None:
    options = set(inspect.signature(emu.Process).parameters)
    assert set(settings.PROCESS) == options - {"program", "args", "schedule"}


def test_neither_loads_what_it_does_not_need() -> None:
    for code in (
        "import emu.testing.plugin, sys; sys.exit(any(m in sys.modules for m in ('emu.api', 'emu.process', 'capstone', 'elftools')))",
        "import emu.testing.assertions, sys; sys.exit('pytest' in sys.modules)",
    ):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=fixtures.ROOT)


def test_the_page_has_the_example() -> None:
    _, _, code = (CODEC / "test_codec.py").read_text().partition("\n\n")
    assert f"```python\n{code}```" in (fixtures.ROOT / "emu/docs/pytest.md").read_text()
