"""A process, watched by the rules of `emu check`, whose end is judged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.analysis.check_notes import base
from emu.analysis.check_suppress import split
from emu.analysis.check_tree import TreeChecker
from emu.core.errors import EmuError
from emu.core.events import EventBus
from emu.exploration.choosers import DivergedError
from emu.exploration.data import Outcome
from emu.process import Process
from emu.process.deadlock import DeadlockError
from emu.process.runner import NS_PER_BLOCK
from emu.process.steps import EndlessLoopError, ManyProcessesError

if TYPE_CHECKING:
    from emu.analysis.check_data import Finding
    from emu.exploration.data import ExploredProgram

_SHOWN = 1 << 20
"""Bytes of a run's output that are looked at."""


class _TooLongError(EmuError):
    """A run does not come to its end."""


class Judged:
    """A new process of `program`, loaded and about to run.

    Raises EmuError where it cannot be loaded. To be closed.
    """

    def __init__(self, program: ExploredProgram) -> None:
        self._program = program
        self._output = os.memfd_create("output", os.MFD_CLOEXEC)
        self._input = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        bus = EventBus()
        stdio = self._input, self._output, self._output
        self.process = Process(program.config._replace(stdio=stdio), bus)
        self.checker = TreeChecker(self.process, program.rules, "all")
        self._printed = 0
        try:
            self.checker.first.load()
            self.process.begin()
        except BaseException:  # Ctrl-C, too: no file stays open; it is raised again
            self.close()
            raise

    def close(self) -> None:
        """Give its files and its memory back."""
        self.process.cpu.close()
        os.close(self._output)
        os.close(self._input)

    def note_output(self) -> None:
        """What was printed up to now belongs to every run."""
        self._printed = os.lseek(self._output, 0, os.SEEK_END)

    def rewind(self) -> None:
        """Forget what was printed since."""
        os.ftruncate(self._output, self._printed)
        os.lseek(self._output, self._printed, os.SEEK_SET)

    def limit(self) -> None:
        """Let a run end after the basic blocks that it may take, counted from here."""
        cpu, clock = self.process.cpu, self.process.kernel.clock
        most = clock.now + self._program.most_blocks * NS_PER_BLOCK

        def blocks() -> None:
            count()
            if clock.now - clock.idle > most:
                raise _TooLongError("no end")

        count = cpu.take_blocks(blocks)

    def end(self, already: EmuError | None) -> Outcome:
        """Run to the end and judge it; `already` ended it before."""
        process = self.process
        assert process.runner is not None
        try:
            if already is not None:
                raise already
            while process.runner.ended is None:
                process.advance()
            result = process.finish()
        except _TooLongError:
            text = f"no end within {self._program.most_blocks:,} basic blocks"
            return Outcome("limit", False, 0, text, self.printing())
        except EndlessLoopError as error:
            return Outcome("limit", False, 0, str(error), self.printing())
        except (ManyProcessesError, DivergedError):
            raise  # it is not the program that has failed
        except EmuError as error:
            kind = "deadlock" if isinstance(error, DeadlockError) else "error"
            return Outcome(kind, True, error.exit_code, str(error), self.printing())
        output = self.printing()
        if result.signal:
            return Outcome("signal", True, result.status, result.report.removeprefix("emu: "), output)
        findings, _ = split(self.checker.report(result.status, result.report).findings, self._program.hidden)
        if findings:
            about = tuple((f.rule, base(f.objects[0]) if f.objects else "*", "*") for f in findings)
            return Outcome("finding", True, result.status, _told(findings), output, about)
        if result.status:
            return Outcome("exit", True, result.status, f"exit code {result.status}", output)
        return Outcome("exit", False, 0, "", output)

    def printing(self) -> bytes:
        """Return what the program has printed."""
        return os.pread(self._output, _SHOWN, 0)


def _told(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.rule}: {finding.message}" for finding in findings)
