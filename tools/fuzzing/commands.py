"""Whole commands under fuzzing: each `emu` command on a mutated program.

Any answer will do but a traceback, a hang, a blow-up.

A child runs some dozens of commands one after the other, in its own process: nothing is imported again, and
what one leaves behind the next one finds.
"""

from __future__ import annotations

import gc
import os
import tempfile
from importlib import import_module
from pathlib import Path
from random import Random

from tools.fuzzing import elf, native
from tools.fuzzing.session import Started, attempt

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("run", "--timeout", "5", "{}"),
    ("run", "--timeout", "5", "--trace", "all", "--trace-output", "/dev/null", "{}"),
    ("ldd", "{}"),
    ("ldd", "--json", "{}"),
    ("explain", "--timeout", "5", "--json", "{}", "scale"),
    ("maps", "--timeout", "5", "{}"),
    ("check", "--timeout", "5", "{}"),
    ("why", "--timeout", "5", "{}", "libseed.so"),
    ("call", "--timeout", "5", "./libseed.so", "count", "3"),
    ("conflicts", "--timeout", "5", "{}"),
    ("run", "--timeout", "5", "--ldso", "real", "{}"),
    ("run", "--timeout", "5", "--env", "LD_DEBUG=all", "{}"),
    ("run", "--timeout", "5", "--env", "LD_BIND_NOW=1", "--max-memory", "128M", "{}"),
)
"""The words of a command; {} is the program. A command that runs a guest has a limit of time."""
_MODULES = (
    "cli.run", "cli.ldd", "cli.explain", "cli.maps", "cli.check", "cli.why", "cli.call", "cli.conflicts", "process.process", "elf.dwarf",
    "elf.cfi", "analysis.check", "analysis.explain", "kernel.syscalls.polling", "cli.main", "cli.streams", "api",
)  # fmt: skip


def start() -> Started:
    """Make a folder with the good files; return what runs command N in it."""
    from emu.cli import main, streams

    for name in _MODULES:
        import_module(f"emu.{name}")
    sets = [_read(native.SEED, native.FILES), _read(native.SEED / "small", ("main", "libseed.so"))]
    folder = Path(tempfile.mkdtemp(prefix="emu-fuzz-"))
    os.environ.clear()
    os.environ.update(native.ENVIRONMENT, EMU_STRICT="1")
    os.chdir(folder)
    pid = os.getpid()
    said = os.open(folder / "said", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_WRONLY)
    streams.install()

    def run(number: int) -> str:
        random = Random(f"commands {number}")
        words = COMMANDS[number % len(COMMANDS)]
        good = sets[random.randrange(8) > 0]  # those without libc cost a third
        target = random.choice(sorted(good))
        program = "./main-fixed" if target == "main-fixed" else "./main"
        kinds = random.choice((elf.LOADED, elf.LOADED, elf.DEBUGGED))
        data, told = elf.mutate(good[target], random, kinds)
        for name, content in good.items():
            _put(folder / name, data if name == target else content)
        os.ftruncate(said, 0)
        with _Outputs(nothing, said):
            raised = attempt(lambda: main._dispatch([word.replace("{}", program) for word in words]))
        if not number % 8:
            gc.collect()  # an arena's process is a circle
        if os.getpid() != pid:
            os._exit(0)
        text = os.pread(said, 1 << 16, 0).decode(errors="replace") + raised
        wrong = "Traceback (most" in text or "fault of emu itself" in text
        return f"{' '.join(words)} on {target}: {told}\n{text[-1400:]}" if wrong else ""

    return Started(run)


def _read(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def _put(path: Path, data: bytes) -> None:
    """Write a file anew, as a build would."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o755)


class _Outputs:
    """The standard streams of one command: nobody reads what it prints, and `said` is what it has to say."""

    def __init__(self, out: int, err: int) -> None:
        self._new, self._old = (out, err), (os.dup(1), os.dup(2))

    def __enter__(self) -> None:
        for number, descriptor in enumerate(self._new, start=1):
            os.dup2(descriptor, number)

    def __exit__(self, *_error: object) -> None:
        import sys

        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, descriptor in enumerate(self._old, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
