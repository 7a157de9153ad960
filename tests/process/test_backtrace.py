"""Backtraces name the frames that gdb names for the same program, and those that libgcc's unwinder finds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from emu.core.events import EventBus
from emu.process import Process, RunConfig
from emu.process.backtrace import FrameInfo
from tests.support import emu, run_emu, the_run
from tools import fixtures
from tools.fixtures import Run

if TYPE_CHECKING:
    from emu.core.effects import Hosted
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract

_LINE = re.compile(
    r"    #(\d+) (?P<name>.*?)(?: \((?P<file>[^():]*):(?P<line>\d+)\))? \[(?P<where>[^\[\]]*)\](?: \((?P<note>.*)\))?"
)


class _Frame(NamedTuple):
    name: str
    file: str
    line: int
    inlined: bool
    low: int  # the pc's offset in its page: objects lie elsewhere under gdb


def _plain(name: str) -> str:
    """A function's qualified name without arguments, template arguments and return type:
    demanglers and DWARF differ in these.
    """
    name = re.sub(r"\.(part|cold|constprop|isra)(\.\d+)*", "", name)
    name = name.replace("(anonymous namespace)", "{anonymous}").replace("operator()", "operator{}")
    previous = ""
    while name != previous:
        previous = name
        name = re.sub(r"<[^<>]*>|\([^()]*\)| const$", "", name)
    return name.rpartition(" ")[2]


def _of_the_loader(name: str) -> bool:
    """Whether a frame is part of dlopen's and dlclose's inside,
    where the emulator's own frame takes the place of ld.so's.
    """
    return name.startswith(("_dl_catch_", "__GI__dl_catch_"))


def _until_main(frames: list[_Frame]) -> list[_Frame]:
    names = [frame.name for frame in frames]
    last = next((n for n in ("main", "__libc_start_call_main", "__libc_start_main") if n in names), None)
    return frames[: names.index(last) + 1] if last is not None else frames


def _gdb_frames(run: Run) -> list[_Frame]:
    variables = fixtures.BASE_ENV | run.env
    script = Path(__file__).with_name("gdb_frames.py")
    command = ["gdb", "-nx", "-batch", "-ex", "set debuginfod enabled off"]
    command += ["-ex", "handle SIGUSR1 nostop noprint"]
    command += [word for name in variables for word in ("-ex", f"set environment {name} {variables[name]}")]
    command += ["-ex", "run", "-ex", f"source {script}", "--args", *run.argv]
    done = subprocess.run(
        command, cwd=fixtures.CACHE / run.fixture, capture_output=True, text=True, timeout=120
    )
    (answer,) = re.findall(r"^.*?FRAMES (\[.*\])$", done.stdout, re.MULTILINE)
    frames = []
    for name, file, line, signal, inlined, pc, in_ld_so in json.loads(answer):
        name = "<signal handler called>" if signal else _plain(name)
        if not in_ld_so and not _of_the_loader(name):
            frames.append(_Frame(name, "" if signal else file, 0 if signal else line, inlined, pc & 0xFFF))
    return _until_main(frames)


def _emu_frames(run: Run) -> list[_Frame]:
    done = run_emu(run, "--tls-dtors", "guest", "--all-frames")
    lines = done.stderr.decode().splitlines()
    report = next(i for i, line in enumerate(lines) if line.startswith("emu: "))
    frames = []
    for number, line in enumerate(lines[report + 1 :]):
        match = _LINE.fullmatch(line)
        assert match is not None, line
        assert int(match[1]) == number
        signal = match["name"] == "<signal handler called>"
        name = match["name"] if signal else "" if match["name"] == "??" else _plain(match["name"])
        if match["where"] != "emu" and not _of_the_loader(name):
            signal = signal or "unloaded by" in (match["note"] or "")  # gdb knows no code there
            file = "" if signal else (match["file"] or "").rpartition("/")[2]
            low = int(match["where"].rpartition("+")[2], 16) & 0xFFF
            inlined = (match["note"] or "").startswith("inlined")
            frames.append(_Frame(name, file, 0 if signal else int(match["line"] or 0), inlined, low))
    return _until_main(frames)


@pytest.mark.needs("gdb")
@pytest.mark.runs(tag="backtraces")
@pytest.mark.usefixtures("built_fixtures")
def test_frames_are_those_of_gdb(run: Run) -> None:
    theirs, ours = _gdb_frames(run), _emu_frames(run)
    assert [frame[1:] for frame in ours] == [frame[1:] for frame in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if other.file in ("main.c", "main.cc", "plugin.c"):
            assert mine.name == other.name


def _at_each_call(
    run: Run, hosted: str, capfd: pytest.CaptureFixture[str]
) -> list[tuple[int, list[FrameInfo]]]:
    """Run a fixture here; return the first argument of each call of a hosted
    function, and the backtrace there.
    """
    folder = fixtures.CACHE / run.fixture
    config = RunConfig(run.argv[0], run.argv[1:], fixtures.BASE_ENV | run.env, str(folder))
    process = Process(config, EventBus())
    process.load()
    assert process.contract is not None
    address = process.contract.pointer_stubs[hosted]
    handler = process.contract.traps[address]
    calls = []

    def observed(contract: Contract, call: HostedCall) -> int | Hosted:
        calls.append((call.args[0], process.backtrace(process.task)))
        return handler(contract, call)

    process.contract.traps[address] = observed
    with capfd.disabled():
        process.run()
    return calls


@pytest.mark.usefixtures("built_fixtures")
def test_libgcc_unwinds_the_same_frames(capfd: pytest.CaptureFixture[str]) -> None:
    run = the_run("dl-libc-backtrace")
    calls = _at_each_call(run, "_dl_find_object", capfd)
    first = calls[0][1]
    assert [frame.function for frame in first[:2]] == ["_dl_find_object", "_Unwind_Find_FDE"]
    ours = [frame.pc for frame in first if not frame.inlined]
    theirs = [address for address, _ in calls]
    # libgcc asks for the place of each frame from its own entry outward: the byte before where the frame goes
    # on.
    start = ours.index(theirs[0] + 1)
    assert [pc - 1 for pc in ours[start:]] == theirs[: len(ours) - start]
    assert first[-1].function == "_start"


@pytest.mark.usefixtures("built_fixtures")
def test_frames_of_a_hosted_function_are_plain_data(capfd: pytest.CaptureFixture[str]) -> None:
    run = the_run("backtrace-plugins:exit")
    ((_, frames),) = _at_each_call(run, "_dl_open", capfd)
    names = [frame.function for frame in frames]
    assert names[0] == "_dl_open"
    assert names.index("dlopen") < names.index("open_plugin") < names.index("main") < names.index("_start")
    assert [frame.level for frame in frames] == list(range(len(frames)))
    assert [FrameInfo(*fields) for fields in json.loads(json.dumps(frames))] == frames
    assert {frame.note for frame in frames} == {""}


def test_a_program_that_does_not_die_imports_no_pyelftools() -> None:
    code = """
import sys
from emu.cli.main import main
sys.argv = ["emu", "run", "/bin/true"]
try:
    main()
except SystemExit:
    pass
assert "elftools" not in sys.modules and "cxxfilt" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=fixtures.ROOT, check=True)


def test_a_process_that_goes_elsewhere_keeps_its_names(tmp_path: Path) -> None:
    """Daemons change to / first: names of files are then relative to where the program began."""
    (tmp_path / "part.c").write_text("void part(void) { *(volatile int *)0 = 1; }\n")
    (tmp_path / "main.c").write_text(
        "#include <dlfcn.h>\n#include <unistd.h>\nint main(void) {\n"
        'void *part = dlopen("./part.so", RTLD_NOW);\nif (chdir("/")) return 2;\n'
        '((void (*)(void))dlsym(part, "part"))();\nreturn 0; }\n'
    )
    subprocess.run(["gcc", "-g", "-shared", "-fPIC", "-o", "part.so", "part.c"], cwd=tmp_path, check=True)
    subprocess.run(["gcc", "-g", "-o", "main", "main.c"], cwd=tmp_path, check=True)
    done = emu("run", "./main", cwd=tmp_path)
    first, second = [line for line in done.stderr.decode().splitlines() if re.match(r" +#[01] ", line)]
    assert re.search(r"#0 part \(\S+/part\.c:1\) \[\./part\.so\+", first)
    assert re.search(r"#1 main \(\S+/main\.c:6\) \[\./main\+", second)
