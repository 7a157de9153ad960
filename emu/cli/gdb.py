"""`emu gdb`: a program under gdb; and what `emu run --gdb` does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

import click

import emu.gdb
from emu.cli import completion, options, parameters
from emu.cli.guest import GuestCommand
from emu.core.errors import EXIT_EMU, EmuError
from emu.core.events import CATEGORIES, EventBus
from emu.gdb.listen import Listener
from emu.gdb.server import serve
from emu.gdb.symbol_file import symbol_file
from emu.gdb.target import EVENTS, Target
from emu.process import Process
from emu.process.config import die_of

if TYPE_CHECKING:
    from emu.process import Result, RunConfig

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 0.5
"""Seconds for gdb to give the terminal back."""


class NoGdbError(EmuError):
    """There is no gdb to start."""

    exit_code = EXIT_EMU


@click.command("gdb", short_help="Run a program under gdb.", cls=GuestCommand)
@options.run_options
@click.option("--gdb-program", default="gdb", metavar="GDB", help="The gdb to start (default: gdb).")
@click.option(
    "--ex", "commands", multiple=True, metavar="COMMAND",
    help="A command for gdb, once it is connected; repeatable.",
)  # fmt: skip
@click.option(
    "--at",
    "place",
    metavar="#N|CATEGORY:N",
    help="Stop there first: at that event of `emu events`, as dtors:3 is the third of its category.",
)
@parameters.history_option("How much memory the past may take, to go back to (default 512M).", "512M")
@click.option("--batch", is_flag=True, help="Let gdb end after these commands.")
@click.argument("program", shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    arguments: tuple[str, ...],
    running: options.Running,
    gdb_program: str,
    commands: tuple[str, ...],
    batch: bool,
    place: str | None,
    history: int,
) -> int:
    """Run PROGRAM under gdb, stopped before its first instruction:
    no library is relocated yet, all that are needed are mapped.

    Options after PROGRAM are PROGRAM's own. emu ends with gdb's exit code.

    \b
    Examples:
      emu gdb ./hello a b
      emu gdb --ex 'break main' --ex continue ./hello
      emu gdb --batch --ex 'catch load' --ex continue --ex 'info sharedlibrary' ./host
      emu gdb --at dtors:3 ./host        at the third event of thread_local destructors
      emu gdb --schedule random --seed 7 ./race
    """  # noqa: D205 - click shows it as written
    config = running.config(program, arguments)
    found = shutil.which(gdb_program)
    if found is None:
        raise NoGdbError(
            f"{gdb_program} is not installed; install it with: apt-get install gdb, "
            "or say `emu run --gdb PORT` and connect another debugger"
        )
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    taken: list[int] = []
    with running.scheduled(config) as scheduled, tempfile.TemporaryDirectory(prefix="emu-gdb-") as folder:
        path = os.path.join(folder, "socket")
        target = _target(scheduled, history, _categories(place))
        if place is not None:
            target.find_event(place)
            target.last = target.execution.standing()
        listener = Listener(f"unix:{path}")
        symbols = os.path.join(folder, "ld.so")
        with open(symbols, "wb") as file:
            file.write(symbol_file(target.process))
        words = [found, "-q", *(["-batch"] if batch else [])]
        for early in (f"set sysroot {config.sysroot}", "set debuginfod enabled off"):
            words += ["-iex", early]
        shipped = os.path.join(os.path.dirname(emu.gdb.__file__), "in_gdb.py")
        connect = [f"target remote {path}", f"source {shipped}"]
        if target.process.contract is not None:
            connect.append(f"python emu_symbols({symbols!r})")
        for line in (*connect, *commands):
            words += ["-ex", line]
        child = subprocess.Popen(words, preexec_fn=_with_signals)  # noqa: PLW1509
        threading.Thread(target=_end_together, args=(child, folder, taken), daemon=True).start()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's goes to gdb, too, which tells us
        threading.Thread(target=_close_after, args=(child, listener), daemon=True).start()
        serve(target, listener, lambda line: None)
        code = child.wait()
    return 128 + taken[0] if taken else code


def _categories(place: str | None) -> tuple[str, ...]:
    """Return the events that have numbers: those of the category that is asked for, too."""
    category = (place or "").partition(":")[0]
    return (*EVENTS, category) if category in CATEGORIES and category not in EVENTS else EVENTS


def _with_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def _end_together(child: subprocess.Popen[bytes], folder: str, taken: list[int]) -> None:
    """Wait for a signal that ends emu, whatever the main thread is doing; leave no gdb and no files."""
    number = signal.sigwait(_ENDING)
    taken.append(number)
    child.terminate()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    shutil.rmtree(folder, ignore_errors=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    die_of(number)


def _close_after(child: subprocess.Popen[bytes], listener: Listener) -> None:
    """Wait for no client any more once gdb has ended."""
    child.wait()
    listener.close()


def _target(config: RunConfig, history: int, categories: tuple[str, ...] = EVENTS) -> Target:
    def make(program: str | None, arguments: tuple[str, ...] | None) -> Process:
        changed = config
        if program is not None:
            changed = changed._replace(program=program, argv0=program)
        if arguments is not None:
            changed = changed._replace(args=arguments)
        return Process(changed, EventBus())

    return Target(make, history, categories)


def serve_run(address: str, config: RunConfig, running: options.Running, history: int) -> int:
    """Run a program for the debuggers that connect at `address`, and return its exit code.

    Raises EmuError.
    """
    if address == "-":  # they are the debugger's
        config = config._replace(stdio=(os.open(os.devnull, os.O_RDONLY), 2, 2))
    listener = Listener(address)
    try:
        with running.scheduled(config) as scheduled:
            target = _target(scheduled, history)
            if listener.lasts:
                _tell(f"emu: waiting for gdb at {listener.name}: target remote {listener.name}")
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            result = serve(target, listener, _tell)
    finally:
        listener.close()
    return _report(result)


def _report(result: Result | None) -> int:
    if result is None:
        return 128 + signal.SIGKILL
    if result.report:
        _tell(result.report)
    return result.status


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
