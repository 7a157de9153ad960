"""Run a built graph under the real ld.so and in the emulator."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from tools.dso_graph.build import SOURCES, build
from tools.dso_graph.language import Graph, script_text

if TYPE_CHECKING:
    from pathlib import Path

#: The values of glibc.rtld.dynamic_sort: the old order, and the depth-first one.
SORTS = (1, 2)

#: Seconds after which a run has failed.
TIMEOUT = 60.0


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


def run_native(graph: Graph, sort: int) -> Outcome:
    """Build and run a graph under the real ld.so. Raises BuildError, subprocess.TimeoutExpired."""
    return _run(["./main", *arguments(graph)], build(graph), environment(sort))


def run_emu(graph: Graph, sort: int, *options: str) -> Outcome:
    """Build and run a graph in the emulator. Raises BuildError, subprocess.TimeoutExpired."""
    variables = [word for pair in environment(sort).items() for word in ("--env", "=".join(pair))]
    command = [sys.executable, "-m", "emu", "run", "--clean-env", *variables, *options, "./main"]
    own = os.environ | {"PYTHONPATH": str(SOURCES.parent.parent)}
    return _run([*command, *arguments(graph)], build(graph), own)


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
