"""A command ends at its limits, in one line, whatever the guest or `emu` itself does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hostile.conftest import end

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hostile.conftest import Ended

    Run = Callable[..., Ended]

_ROOT = Path(__file__).parents[2]
_HANG = """
import sys
from emu.kernel.table import TABLE
import emu.kernel.syscalls.identity

def hang(kernel, task):
    while True:
        pass

TABLE[110] = TABLE[110]._replace(handler=hang)
from emu.cli.main import main
main()
"""
"""`emu` with a getppid that never ends."""
_MIB = 1 << 20


def _hanging(programs: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", _HANG, "run", *words, str(programs / "asks")]


def test_the_limit_of_time_ends_a_hanging_emu_and_says_where(programs: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    words = _hanging(programs, "--timeout", "1", "--trace", "libs", "--trace-output", str(trace))
    done = end(words, tmp_path, {"PYTHONPATH": str(_ROOT)})
    assert done.status == 124
    assert "stopped after 1 s (--timeout); emu itself did not stop, it was in " in done.err
    assert "libc.so.6" in trace.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_hanging_emu_with_its_trace_whole(
    number: signal.Signals, programs: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    words = _hanging(programs, "--trace", "libs,syscalls", "--trace-output", str(trace))
    environment = {"PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asking\n"
        process.send_signal(number)  # it hangs, or is about to
        assert process.wait() in (-number, 128 + number)
    assert "libc.so.6" in trace.read_text()


@pytest.mark.parametrize("text", ["nan", "inf", "1e308", "0", "-1"])
def test_no_limit_of_time(text: str, emu: Run) -> None:
    done = emu("run", "--timeout", text, "./asks")
    assert (done.status, done.err.count("\n")) == (2, 1)


def test_questions_have_limits_too(emu: Run) -> None:
    for command in (["maps", "--timeout", "1", "./endless"], ["explain", "--timeout", "1", "./endless", "f"]):
        done = emu(*command)
        assert (done.status, done.err) == (124, "emu: ./endless: stopped after 1 s (--timeout)\n")
    for command in (["maps", "--max-memory", "64K", "./asks"], ["run", "--max-memory", "64K", "./asks"]):
        done = emu(*command)
        assert (done.status, done.err) == (
            125,
            "emu: ./asks: no memory to start it: --max-memory is 65536 bytes\n",
        )


def test_numbers_in_tunables_of_any_length(native: Run, emu: Run) -> None:
    for number in ("9" * 30, "9" * 5000, "0x" + "f" * 17):
        tunables = f"glibc.rtld.optional_static_tls={number}"
        assert emu("run", "--env", f"GLIBC_TUNABLES={tunables}", "/bin/true").status == 0


def _under(limit: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(limit, (value, value))


@pytest.mark.parametrize(
    ("limit", "value"),
    [(resource.RLIMIT_NOFILE, 8), (resource.RLIMIT_NOFILE, 10), (resource.RLIMIT_AS, 100 * _MIB)],
    ids=["8 descriptors", "10 descriptors", "100 MiB"],
)
def test_too_little_for_emu_itself_is_one_line(limit: int, value: int, programs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emu", "run", "./asks"],
        cwd=programs,
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=_under(limit, value),
    )
    assert done.returncode == 0 or (done.stderr.startswith("emu: ") and done.stderr.count("\n") == 1)


def test_a_host_without_proc(programs: Path) -> None:
    alone = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    script = 'mount -t tmpfs none /proc && exec "$@"'
    for words, status in (
        (["run", "./asks"], 0),
        (["ldd", "./asks"], 0),
        (["run", "./handles", "dlsym-nothing"], 139),
    ):
        command = [*alone, "sh", "-c", script, "sh", sys.executable, "-m", "emu", *words]
        done = end(command, programs, {"PYTHONPATH": str(_ROOT), "EMU_STRICT": "1"})
        assert done.status == status, done.err


def test_a_working_directory_that_is_not_the_guests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "emu", "run", "/bin/true"],
        cwd="/proc/self",
        env={"PYTHONPATH": str(_ROOT), "EMU_STRICT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 125
    assert "the working directory must be one of the guest's" in done.stderr
    assert done.stderr.count("\n") == 1


def test_descriptors_are_there_for_a_thousand_mapped_files_and_for_the_report(
    programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "many").mkdir()
    for number in range(1100):
        (tmp_path / "many" / str(number)).write_text("x")
    environment = {"PYTHONPATH": str(_ROOT)}
    words = [sys.executable, "-m", "emu", "run", str(programs / "mapped"), "1100"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "1100 mapped, then errno 24\n"
    few = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=_under(resource.RLIMIT_NOFILE, 128),
    )
    assert few.stdout == done.stdout
    assert few.returncode == done.returncode == 139
    assert "mapped.c:" in few.stderr  # its symbols could still be read


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("files", "ENOBUFS"),
        ("files unprivileged", "ETOOMANYREFS"),
        ("threads", "EAGAIN"),
        ("interests", "ENOSPC"),
        ("executes", "ENOMEM"),
        ("connections", "ENOBUFS"),
    ],
)
def test_what_the_kernel_holds_has_a_ceiling(what: str, answer: str, emu: Run) -> None:
    done = emu("run", "--max-memory", "24M", "./ceilings", *what.split())
    assert (done.status, done.out.decode()) == (0, f"{answer}\n"), done.err
    assert done.memory < 24 * _MIB + 150 * _MIB


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("links", "ENOSPC"),
        ("files", "ENOSPC"),
        ("directories", "ENOSPC"),
        ("read", "ENOSPC"),
        ("come", "no end"),
    ],
)
def test_names_count_while_they_are_there(what: str, answer: str, emu: Run) -> None:
    done = emu("run", "--max-memory", "14M", "./names", what)
    assert (done.status, done.out.decode()) == (0, f"{answer}\n"), done.err
    assert done.memory < 14 * _MIB + 150 * _MIB


def test_memory_stays_within_its_limit(emu: Run) -> None:
    done = emu("run", "--max-memory", "64M", "./greedy")
    assert done.status == 0, done.err
    assert done.memory < 64 * _MIB + 150 * _MIB


def test_what_is_only_mapped_does_not_count(native: Run, emu: Run) -> None:
    there, here = native("touches", "16", "8", "8"), emu("run", "./touches", "16", "8", "8")
    assert (here.status, here.out, here.err) == (there.status, there.out, "")
    limited = emu("run", "-v", "--max-memory", "64M", "./touches", "16", "30", "20")
    assert limited.out == b"map: ok\ntouched\nagain: ok\nmuch: Cannot allocate memory\n"
    assert limited.err.count("the program was told") == 1
    assert "no room for 17179869184 bytes within --max-memory (67108864 bytes, " in limited.err


def test_a_full_machine(emu: Run) -> None:
    full = emu("run", "-v", "--max-memory", "64M", "./touches", "16", "8", "80")
    assert full.out.splitlines()[1] == b"write: No space left on device"
    assert "the program was told ENOSPC" in full.err
    killed = emu("run", "--max-memory", "64M", "./touches", "16", "80", "8")
    assert killed.status == 137
    assert "killed by SIGKILL: out of memory, 5" in killed.err
    assert killed.memory < 64 * _MIB + 150 * _MIB


_PROCESSES = """
import gc, emu
from pathlib import Path

def held():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

emu.Process()
before = held()
for _ in range(20):
    emu.Process()
print((held() - before) // 20)
"""


def test_a_process_that_is_gone_holds_no_memory(tmp_path: Path) -> None:
    done = end([sys.executable, "-c", _PROCESSES], tmp_path, {"PYTHONPATH": str(_ROOT)})
    assert int(done.out) < 1500, "KB are left of each: an engine alone has 3000"


def test_nothing_reads_memory_that_is_freed(emu: Run) -> None:
    watched = {"PYTHONMALLOC": "debug", "MALLOC_PERTURB_": "85", "PYTHONDEVMODE": "1"}
    for program in ("asks", "segments"):
        plain, here = emu("run", f"./{program}"), emu("run", f"./{program}", **watched)
        assert (here.status, here.out) == (plain.status, plain.out)


def test_segment_registers(native: Run, emu: Run) -> None:
    there, here = native("segments"), emu("run", "./segments")
    assert (here.status, here.out) == (there.status, there.out)
    assert there.status == 139
    there, here = native("fsgs"), emu("run", "./fsgs")
    assert (here.status, here.out) == (there.status, there.out)
