"""Fixtures under other releases of glibc: emu with that system as its sysroot gives
what that system's real ld.so gives.

By default every tenth fixture on 2.31, 2.41 and the newest; with `--glibc all`, and in the long tier, every
run of every fixture on each release that Debian has. A system that is not here is fetched in continuous
integration and where all are asked for (`emu sysroot add debian:13`); elsewhere its tests are skipped, by
name and number. What cannot be fetched is skipped so, too, or fails where all are asked for.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests import support
from tests.test_ld_debug import _lines, _with
from tools import elsewhere, fixtures
from tools.fixtures import FixtureError
from tools.fuzzing.elf import Elf

if TYPE_CHECKING:
    from pathlib import Path

    from tools.elsewhere import Elsewhere
    from tools.fixtures import Run

DEFAULT = ("2.31", "2.41", elsewhere.NEWEST)
STRIDE = 10
LD_DEBUG_RUNS = (
    "hello-printf",
    "dl-chain",
    "unload-diamond",
    "init-order-graph",
    "unique-symbols",
    "error-missing-library",
    "dl-constructor-arguments",
    "unload-cycle:at-a",
)

_NULLS = "ld.so gives back null pointers as it brings a DTV up to date"
KNOWN = {
    "2.36-8": {"dl-malloc-calls": _NULLS},
    "2.31": {
        "audit-calls": "natively most of these crash",
        "audit-dtors": "libc's malloc binds its first symbols earlier, as ld.so itself calls it at start-up",
        "audit-loading": "an auditor that stays where it should go is an assertion of ld.so",
        "audit-log": "natively they crash, with one line more for malloc's first symbols",
        "audit-symbind:linked-now": "natively a slot that is bound at once is told of after all",
        "audit-tls": "the order of static TLS with auditors is another",
        "dl-filter:opened": "natively an assertion of ld.so fails",
        "dl-malloc-calls": f"{_NULLS}, or has looked at a note",
        "thread-once": "a deadlock: pthread_once never ends once its routine has thrown (bug 18435, to 2.33)",
        "thread-in-constructor": "a deadlock: the thread's first access to TLS waits for the dlopen that waits for it",
    },
}
"""Runs by the beginning of their names, with why they differ."""


def _everything(config: pytest.Config) -> bool:
    return bool(config.getoption("glibc") == "all" or config.getoption("tier") == "long")


def _expected(release: str, run: Run) -> bool:
    return not any(run.id.startswith(name) for name in KNOWN.get(release, {}))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    everything = _everything(metafunc.config)
    releases = list(elsewhere.SUITES) if everything else list(DEFAULT)
    if metafunc.config.getoption("glibc") == "none":
        releases = []
    if "run" in metafunc.fixturenames:
        pairs = []
        for number, release in enumerate(releases):
            chosen = fixtures.load_all()
            if not everything:
                chosen = chosen[number::STRIDE]
            for fixture in chosen:
                runs = [run for run in fixture.runs if _expected(release, run)]
                pairs += [(release, run) for run in (runs if everything else runs[:2])]
        metafunc.parametrize(
            ("release", "run"), [pytest.param(*pair, id=f"{pair[0]}-{pair[1].id}") for pair in pairs]
        )
    elif "release" in metafunc.fixturenames:
        named = [
            mark for mark in metafunc.definition.iter_markers("parametrize") if "release" in mark.args[0]
        ]
        if not named:
            metafunc.parametrize("release", releases)


@pytest.fixture
def system(release: str, request: pytest.FixtureRequest) -> Elsewhere:
    """The system with that release; skips or fails where there is none."""
    asked = _everything(request.config) or os.environ.get("CI") == "true"
    if asked and elsewhere.source_of(release) is None:
        try:
            elsewhere.add(release)
        except FixtureError as error:
            if _everything(request.config):
                raise
            pytest.skip(f"glibc {release} NOT TESTED: {error}")
    try:
        return elsewhere.elsewhere(release)
    except FixtureError as error:
        if _everything(request.config):
            raise
        pytest.skip(f"glibc {release} NOT TESTED: {error}")


def _place(run: Run, system: Elsewhere) -> None:
    try:
        elsewhere.place(fixtures.load(run.fixture), system)
    except FixtureError:
        if not system.older:
            raise
        pytest.skip(f"glibc {system.release}: fixture does not build against it")


@pytest.mark.usefixtures("built_fixtures")
def test_equals_the_real_ld_so(system: Elsewhere, run: Run) -> None:
    _place(run, system)
    assert elsewhere.differences(run, system) == ""


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("name", LD_DEBUG_RUNS)
def test_every_line_is_ld_sos(system: Elsewhere, name: str) -> None:
    _compare_lines(system, name)


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("2.36-8", "unload-diamond"),
        ("2.41", "audit-loading:left-out"),
        ("2.31", "search-passed-over:paths"),
        ("2.44", "search-passed-over"),
    ],
)
def test_every_line_of_a_release_s_own(system: Elsewhere, name: str) -> None:
    """Destructors that are none are told of since 2.39, and on the branches of older releases.

    An auditor without la_version goes when that has been told. Since 2.43 it is said why a file is passed
    over.
    """
    _compare_lines(system, name)


def _compare_lines(system: Elsewhere, name: str) -> None:
    if not elsewhere.may_chroot():
        pytest.skip(f"glibc {system.release}: a search that is told by --library-path has lines of its own")
    runs = fixtures.load(name.partition(":")[0]).runs
    run = next((run for run in runs if run.id == name), runs[0])
    run = _with(run, {"LD_DEBUG": "all"})
    _place(run, system)
    native, emulated = (how(run, system) for how in (elsewhere.run_native, elsewhere.run_emu))
    assert (emulated.exit, emulated.stdout) == (native.exit, native.stdout)
    assert _lines(emulated.stderr) == _lines(native.stderr)


def test_commands_work_there(system: Elsewhere) -> None:
    """Each command that a user has answers about programs of that system."""
    fixture = fixtures.load("unload-diamond")
    try:
        elsewhere.place(fixture, system)
    except FixtureError:
        pytest.skip(f"glibc {system.release}: fixture does not build against it")
    for words, said in (
        (["ldd", "./main"], "libc.so.6"),
        (["maps", "./main"], "libc"),
        (["explain", "./main", "printf"], "libc.so.6"),
        (["check", "./main"], ""),
        (["call", "libc.so.6", "abs", "-5"], "5"),
        (["run", "--tls-dtors", "guest", "./main"], ""),
    ):
        done = elsewhere.emu(system, fixture.name, *words)
        assert (done.exit, said in done.stdout.decode()) == (0, True), (words, done)


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("release", ["2.31"])
@pytest.mark.parametrize("run_id", ["audit-symbind:bind-now", "audit-search"])
def test_what_auditors_hear_names_the_release(system: Elsewhere, run_id: str) -> None:
    (run,) = (run for run in fixtures.load(run_id.partition(":")[0]).runs if run.id == run_id)
    _place(run, system)
    assert elsewhere.differences(run, system) == ""


@pytest.mark.parametrize("release", ["2.41"])
def test_an_answer_names_the_release_that_it_depends_on(system: Elsewhere) -> None:
    fixture = fixtures.load("dl-executable-stack")
    elsewhere.place(fixture, system)
    done = elsewhere.emu(system, fixture.name, "why", "./main", "libstack.so")
    said = done.stderr.decode()
    assert "libstack.so asks for an executable stack: its PT_GNU_STACK asks for one" in said
    assert "(since glibc 2.41)" in said


@pytest.mark.parametrize("release", ["2.31"])
def test_a_difference_is_put_down_to_what_it_points_to(system: Elsewhere) -> None:
    """A change that could be behind any difference of its kind is not named beside it."""
    fixture = fixtures.load("hello-printf")
    elsewhere.place(fixture, system)
    said = elsewhere.emu(system, fixture.name, "diff", "--sysroot", "/", "./main").stdout.decode()
    assert "calloc@GLIBC_2.2.5" in said
    assert "bug 25486" in said
    assert "7374c02b68" not in said


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("release", ["2.31"])
def test_a_deadlock_names_the_release_s_lock(system: Elsewhere) -> None:
    """Natively it waits for ever."""
    run = fixtures.load("thread-in-constructor").runs[0]
    _place(run, system)
    done = elsewhere.run_emu(run, system)
    said = done.stderr.decode()
    assert (done.exit, "(_dl_load_lock), held by thread 1000" in said) == (125, True), said
    assert "which runs init()" in said


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize(
    ("release", "run_id"), [("2.31", "unload-exit-in-fini:itself"), ("2.36-8", "unload-exit-in-fini:itself")]
)
def test_an_exit_within_a_destructor_runs_it_again(system: Elsewhere, run_id: str) -> None:
    """Before 2.39; the branches of older releases have had the change since, and with it a member."""
    run = support.the_run(run_id)
    _place(run, system)
    done = elsewhere.run_emu(run, system)
    assert done[:2] == elsewhere.run_native(run, system)[:2]
    assert done.stdout.count(b"e: fini begins") == 2


_PT_NOTE, _PT_GNU_PROPERTY = 4, 0x6474E553
_ISA_1_NEEDED = struct.pack("<II", 0xC0008002, 4)


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("unread", [_PT_NOTE, _PT_GNU_PROPERTY], ids=["property", "note"])
@pytest.mark.parametrize(
    ("release", "read"), [("2.36-8", {_PT_NOTE}), ("2.41", {_PT_NOTE, _PT_GNU_PROPERTY}), ("2.44", {_PT_GNU_PROPERTY})]
)  # fmt: skip
def test_what_a_program_needs_of_the_cpu(system: Elsewhere, read: set[int], unread: int) -> None:
    """It asks for a level that no CPU has, in one of the two segments."""
    run = fixtures.load("hello-printf").runs[0]
    _place(run, system)
    good = system.folder(run.fixture) / "main"
    elf = Elf(good.read_bytes())
    for at, segment in zip(elf.phdrs, elf.fields, strict=True):
        if segment[0] == unread:
            elf.put(at, 4, 0)
    elf.put(elf.data.index(_ISA_1_NEEDED) + len(_ISA_1_NEEDED), 4, 1 << 12)
    other = good.with_name(f"needs-{unread:x}")
    other.write_bytes(elf.data)
    other.chmod(0o755)
    run = run._replace(argv=(f"./{other.name}", *run.argv[1:]))
    native, emulated = elsewhere.run_native(run, system), elsewhere.run_emu(run, system)
    refused = bool(read - {unread})
    assert (native.exit, emulated.exit) == ((127, 127) if refused else (run.exit, run.exit))
    assert (b"ISA level" in native.stderr, b"ISA level" in emulated.stderr) == (refused, refused)


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("release", ["2.31"])
def test_what_ld_so_knows_of_the_cpu_is_what_cpuid_says(system: Elsewhere) -> None:
    """Up to 2.31 its start fills that in, which emu takes the place of."""
    (run,) = fixtures.load("cpu-known-to-ldso").runs
    _place(run, system)
    assert elsewhere.differences(run, system) == ""
    assert b"leaf 1, word 2: known" in elsewhere.run_emu(run, system).stdout


@pytest.mark.usefixtures("built_fixtures")
@pytest.mark.parametrize("release", ["2.31"])
def test_a_library_for_a_later_kernel_is_passed_over(system: Elsewhere) -> None:
    """By its ABI tag, up to 2.35: the search goes on, a path fails; LD_ASSUME_KERNEL may ask for less."""
    for run in fixtures.load("search-passed-over").runs:
        _place(run, system)
        assert elsewhere.differences(run, system) == ""
    env = ["--env", "LD_LIBRARY_PATH=first"]
    said = elsewhere.emu(system, run.fixture, "why", *env, "./main", "liblate.so").stderr.decode()
    assert "asks for Linux 99.0.0, and with glibc before 2.36 that counts" in said


@pytest.mark.parametrize("release", ["2.44"])
def test_an_object_opened_by_another_name_is_told_of(system: Elsewhere, tmp_path: Path) -> None:
    folder = system.folder("opened-again")
    folder.mkdir(exist_ok=True)
    again = "".join(f'dlopen("{name}", 2); ' for name in ("./a.so", "././a.so", "./a.so", "$ORIGIN/a.so"))
    (tmp_path / "a.c").write_text("int a;\n")
    (tmp_path / "main.c").write_text(f"#include <dlfcn.h>\nint main(void) {{ {again}return 0; }}\n")
    support.compile_c(tmp_path, "-shared", "-fPIC", "-o", str(folder / "a.so"), "a.c")
    support.compile_c(tmp_path, "-o", str(folder / "main"), "main.c")
    run = fixtures.Run("opened-again", "default", ("./main",), {"LD_DEBUG": "files"}, "", 0, False)
    native, emulated = elsewhere.run_native(run, system), elsewhere.run_emu(run, system)
    assert (emulated.exit, _lines(emulated.stderr)) == (native.exit, _lines(native.stderr))
    assert emulated.stderr.count(b"opening file=./a.so") == 3
