"""Run a built graph under the real ld.so and in the emulator."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from tools.dso_graph.build import SOURCES
from tools.dso_graph.language import Graph, script_text
from tools.emu_server import EmuServer, Request

if TYPE_CHECKING:
    from pathlib import Path

ROOT = SOURCES.parent.parent

#: The values of glibc.rtld.dynamic_sort: the old order, and the depth-first one.
SORTS = (1, 2)

#: Seconds after which a run has failed.
TIMEOUT = 60


class Outcome(NamedTuple):
    """What a run left: its exit code (128+N for signal N), what it printed, and its standard error."""

    exit: int
    output: str
    errors: str

    def __str__(self) -> str:
        return "\n".join(
            [*(line.rstrip() for line in self.output.splitlines()), *self.errors.splitlines()]
            + ([f"exit {self.exit}"] if self.exit else [])
        )


def arguments(graph: Graph) -> list[str]:
    """Return the driver's arguments: the program's script, then each hook with its own."""
    words = [script_text(graph.script)]
    for hook in graph.hooks:
        words += [hook.mark + hook.owner, script_text(hook.script)]
    return words


def environment(sort: int) -> dict[str, str]:
    """Return the whole environment of a run."""
    return {
        "PATH": "/usr/bin:/bin",
        "LC_ALL": "C",
        "LD_LIBRARY_PATH": ".",
        "GLIBC_TUNABLES": f"glibc.rtld.dynamic_sort={sort}",
    }


def emu_arguments(graph: Graph, sort: int, *options: str) -> list[str]:
    """Return the arguments of the command emu that run a graph in its folder."""
    variables = [word for pair in environment(sort).items() for word in ("--env", "=".join(pair))]
    return ["run", "--clean-env", *variables, *options, "./main", *arguments(graph)]


def run_native(folder: Path, graph: Graph, sort: int) -> Outcome:
    """Run a graph built in ``folder`` under the real ld.so; raises subprocess.TimeoutExpired."""
    return _run(["./main", *arguments(graph)], folder, environment(sort))


def run_emu(folder: Path, graph: Graph, sort: int, *options: str) -> Outcome:
    """Run a graph built in ``folder`` by the command emu; raises subprocess.TimeoutExpired."""
    command = [sys.executable, "-m", "emu", *emu_arguments(graph, sort, *options)]
    return _run(command, folder, os.environ | {"PYTHONPATH": str(ROOT)})


def _run(command: list[str], folder: Path, env: dict[str, str]) -> Outcome:
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Outcome(
        code, done.stdout.decode(errors="backslashreplace"), done.stderr.decode(errors="backslashreplace")
    )


class GraphServer(EmuServer):
    """Runs graphs in the emulator without a start of Python for each: see `tools.emu_server`."""

    def run_graph(self, folder: Path, graph: Graph, sort: int, *options: str) -> Outcome:
        """Run a graph built in ``folder``; exit code 124 when it took too long."""
        words = emu_arguments(graph, sort, "--timeout", str(TIMEOUT), *options)
        code, *texts = self.run(Request(str(folder), words, dict(os.environ)), 2 * TIMEOUT)
        return Outcome(code, *(text.decode(errors="backslashreplace") for text in texts))
