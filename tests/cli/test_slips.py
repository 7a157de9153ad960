"""What is mistyped, or is not what it was taken for: one line with the next step, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import support

_ARM, _X86 = 183, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, and files that are none."""
    folder = tmp_path_factory.mktemp("slips")
    program = Path("/bin/true").read_bytes()

    def put(name: str, content: bytes, mode: int = 0o755) -> None:
        (folder / name).write_bytes(content)
        (folder / name).chmod(mode)

    put("main", program)
    put("noexec", program, 0o644)
    put("arm", program[:18] + _ARM.to_bytes(2, "little") + program[20:])
    put("prog32", program[:4] + b"\1" + program[5:18] + _X86.to_bytes(2, "little") + program[20:])
    put("text", b"hello\n")
    put("empty", b"")
    put("script", b"#!/no/such/shell\n")
    return folder


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("run ./nothing", 127, "./nothing: No such file or directory"),
        ("run main", 127, "main: command not found (the file here is ./main)"),
        ("run mian", 127, "mian: command not found (the nearest file here is ./main)"),
        ("run ./noexec", 126, "./noexec: Permission denied (not executable; if it is a program: chmod +x ./noexec)"),
        ("check ./noexec", 126, "./noexec: Permission denied (not executable; if it is a program: chmod +x ./noexec)"),
        ("run ./text", 126, "./text: Exec format error (neither an ELF file nor a script, which begins with #!)"),
        ("ldd ./empty", 126, "./empty: Exec format error (the file is empty)"),
        ("run ./script", 126, "./script: /no/such/shell: bad interpreter: No such file or directory"),
        ("run /tmp", 126, "/tmp: Is a directory"),
        ("run ./arm", 126, "./arm: Exec format error (a program for AArch64; only 64-bit x86-64 programs run)"),
        ("why ./prog32 libc", 126, "./prog32: Exec format error (a program for 32-bit x86; only 64-bit x86-64 programs run)"),
        ("call ./main main", 127, "./main: cannot dynamically load position-independent executable; it is a program: `emu run ./main` runs it"),
        ("call ./text f", 127, "./text: file too short; it is text, which begins with 'hello'"),
        ("run --schedule rnd ./main", 2, "'rnd' is no schedule: choose round-robin, random or replay:FILE"),
        ("run --trace dl,dtor ./main", 2, "no category 'dtor'"),
        ("rnu ./main", 2, "no command 'rnu': did you mean 'run'?"),
        ("./main", 2, "no command './main': to run a program say `emu run ./main'"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line_with_what_to_do(folder: Path, words: str, code: int, line: str) -> None:
    done = support.emu(*words.split(), cwd=folder)
    lines = done.stderr.decode().splitlines()
    assert (done.exit, len(lines)) == (code, 1), done.stderr
    assert lines[0].startswith("emu: ") and line in lines[0]
