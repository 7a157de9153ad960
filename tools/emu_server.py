"""A process that runs emu again and again: it imports the emulator once and forks for each run.

A run so costs about 0.1 s of CPU where the command costs 0.35 s. `EmuServer` is the side that asks. What it
runs is the command itself, `emu.cli.main`, with the arguments, folder, environment and standard input that
are asked for.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self

ROOT = Path(__file__).resolve().parent.parent

#: What a run would import besides the command line.
_PRELOAD = ("emu.cli.main", "emu.cli.run", "emu.process")


class Request(NamedTuple):
    """A run that is wanted: `folder`, the `words` behind `emu`, its environment and its standard input."""

    folder: str
    words: list[str]
    env: dict[str, str]
    stdin: bytes = b""


class EmuServer:
    """The side that asks; the server starts with the first run. To be closed, or used with `with`."""

    def __init__(self) -> None:
        self._open: tuple[Connection, subprocess.Popen[bytes]] | None = None

    def _server(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        if self._open is not None:
            return self._open
        ours, theirs = Pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.emu_server", str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._open = ours, process
        return self._open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the server end."""
        if self._open is not None:
            asking, process = self._open
            self._open = None
            asking.close()
            process.wait()

    def run(self, request: Request, timeout: float) -> tuple[int, bytes, bytes]:
        """Return a run's exit code (128+N for signal N), its output and its standard error.

        Raises subprocess.TimeoutExpired after `timeout` seconds, EOFError or OSError if the server has died.
        """
        asking, process = self._server()
        try:
            asking.send(tuple(request))
            if not asking.poll(timeout):
                os.killpg(process.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["emu", *request.words], timeout)
            code, output, errors = asking.recv()
        except (EOFError, OSError, subprocess.TimeoutExpired):
            self.close()  # the next run has a new one
            raise
        return code, output, errors


def _run(request: Request) -> tuple[int, bytes, bytes]:
    """Run one emu in a child."""
    files = [os.memfd_create(name) for name in ("input", "output", "errors")]
    os.write(files[0], request.stdin)
    os.lseek(files[0], 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        _become(request, files)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for file in files:
        os.lseek(file, 0, os.SEEK_SET)
    _, output, errors = (os.fdopen(file, "rb").read() for file in files)
    return (status if status >= 0 else 128 - status), output, errors


def _become(request: Request, files: list[int]) -> None:
    """Be the command, with these standard files; does not return."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.env)
    sys.argv = ["emu", *request.words]
    from emu.cli.main import main

    try:
        main()
    finally:
        # As the interpreter would, but without what belongs to the parent.
        sys.stdout.flush()
        sys.stderr.flush()
        failure = sys.exc_info()[1]
        if isinstance(failure, SystemExit):
            os._exit(failure.code if isinstance(failure.code, int) else 1)
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    """Serve at the descriptor that the first argument names, until the other side is closed."""
    for name in _PRELOAD:
        importlib.import_module(name)
    asked: Connection = Connection(int(sys.argv[1]))
    os.set_inheritable(asked.fileno(), False)
    while True:
        try:
            request = Request(*asked.recv())
        except EOFError:
            return
        asked.send(_run(request))


if __name__ == "__main__":
    main()
