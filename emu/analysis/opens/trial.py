"""Remedies that are tried: the program is run again with one of them, up to the open that failed.

The other run is silent, reads an empty standard input, and writes nothing to the host. It is the same program
under the same rules, so it comes to the same open, or the remedy was not tried.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.core import dl_events as dl
from emu.core.errors import EmuError
from emu.core.events import Binding, EventBus, InitStarted
from emu.core.record import NamedTuple
from emu.elf.edit import edited
from emu.kernel import abi
from emu.kernel.fs.inodes import Regular
from emu.process import Process
from emu.process.hostsignals import HostSignals
from emu.rtld.open import LM_ID_BASE, RTLD_GLOBAL, RTLD_NOW, dl_open

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.analysis.opens.data import FailedOpen, Trial
    from emu.core.effects import Hosted
    from emu.core.events import Record
    from emu.glibc.call import HostedCall
    from emu.glibc.contract import Contract
    from emu.process import RunConfig

    _Entry = Callable[[Contract, HostedCall], int | Hosted]

_MOST = 10
"""Remedies of one failure that are tried; they come most promising first."""


class TrialOutcome(NamedTuple):
    """What became of the open: `code` as in `Cure`, empty if the run did not come to it;
    `text` is ld.so's where it failed.
    """

    code: str
    text: str = ""


def try_cures(
    config: RunConfig, failure: FailedOpen, on_step: Callable[[int, int], None] = lambda at, of: None
) -> FailedOpen:
    """Return the failure with the outcome of each cure that can be tried;
    `config` is what the program was run with.

    `on_step` is told before each run how many were made, and of how many.
    """
    todo = [cure for cure in failure.cures if cure.trial is not None][:_MOST]
    cures = []
    for cure in failure.cures:
        if cure.trial is not None and cure in todo:
            on_step(todo.index(cure), len(todo))
            outcome = attempt(config, failure, cure.trial)
            cure = replace(cure, outcome=outcome.code, then=outcome.text if outcome.code == "next" else "")
        cures.append(cure)
    return replace(failure, cures=tuple(cures))


def attempt(config: RunConfig, failure: FailedOpen, trial: Trial) -> TrialOutcome:
    """Run the program with one change, up to the open that failed, and return what became of that."""
    env = {name: value for name, value in config.env.items() if name not in trial.unset} | dict(trial.env)
    silent = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        changed = config._replace(
            env=env,
            stdio=(silent, silent, silent),
            writable=(),
            shown=(*config.shown, *config.writable),
            policy=None,
            max_memory=None if trial.unlimited else config.max_memory,
        )
        return _Rerun(changed, failure, trial).outcome()
    finally:
        os.close(silent)


class _Rerun:
    """One more run. `done` is what became of the open, once that is known."""

    def __init__(self, config: RunConfig, failure: FailedOpen, trial: Trial) -> None:
        self.config, self.failure, self.trial = config, failure, trial
        bus = EventBus()
        self._by_name = failure.call in ("first-call", "dlsym")
        bus.subscribe(self._take, ("bindings",) if self._by_name else ("dl", "init"))
        self.process = Process(config, bus)
        self.process.kernel.system.report_to(lambda line: None)
        self.done: TrialOutcome | None = None
        self._seen = self._depth = 0
        self._left = 2 if trial.first else 1
        self._task = -1
        self._other = ""
        self._linked = False
        self._applied = not self._needs_open()

    def _needs_open(self) -> bool:
        """Whether a call that is to be bound later needs an open to be made otherwise."""
        trial = self.trial
        return self._by_name and bool(trial.first or trial.file or trial.set_flags or trial.clear_flags)

    def outcome(self) -> TrialOutcome:
        """Run, and return what became of the open."""
        try:
            self._change_files()
            self.process.load()
            if self.failure.call == "preload":
                rtld = self.process.rtld
                refused = rtld is not None and any(name == self.failure.file for name, _, _ in rtld.refused)
                return TrialOutcome("fails" if refused else "starts")
            if self.failure.call == "start-up":
                self.process.start()
                return TrialOutcome("starts")
            self._run()
        except EmuError as error:
            return self._ended(str(error))
        if self.done is None and not self._linked and self._other:
            return TrialOutcome("next", self._other)  # it does not come so far any more
        return self.done or TrialOutcome("opens" if self._linked else "")

    def _ended(self, text: str) -> TrialOutcome:
        if self.failure.call != "start-up" or self.done is not None:
            return self.done or TrialOutcome("")
        return TrialOutcome(
            "fails" if self.failure.error.partition("\n")[0] in text else "next", text.partition("\n")[0]
        )

    def _run(self) -> None:
        process, contract = self.process, self.process.contract
        if contract is None:
            return
        if not self._by_name or self._needs_open():
            self._replace_open(contract)
        process.begin()
        assert process.runner is not None
        with HostSignals(process.kernel, process.cpu, self.config.timeout, self.config.die) as host:
            while process.runner.ended is None and self.done is None:
                process.advance(host)

    def _change_files(self) -> None:
        files = self.process.kernel.fs
        for path, edit in self.trial.edits:
            inode = self._file(path)
            if inode is not None:
                data = edited(inode.read_at(inode.size(), 0), path, edit)
                inode.truncate(0)
                inode.write_at(data, 0)
        program = self._file(self.config.program) if self.trial.without_ids else None
        if program is not None:
            program.own().mode &= ~(abi.S_ISUID | abi.S_ISGID)
        for path in self.trial.without:
            files.unlink(path)

    def _file(self, path: str) -> Regular | None:
        try:
            inode = self.process.kernel.fs.find(path)
        except OSError:
            return None
        return inode if isinstance(inode, Regular) else None

    def _replace_open(self, contract: Contract) -> None:
        """Let the open that failed be made as the change has it."""
        address = contract.pointer_stubs["_dl_open"]
        usual = contract.traps[address]

        def opening(contract: Contract, call: HostedCall) -> Hosted:
            file = os.fsdecode(contract.arena.read_cstr(call.args[0])) if call.args[0] else ""
            if self._by_name:
                return (yield from self._open_before_call(contract, call, file, usual))
            if file == self.failure.file:
                self._seen += 1
            if file != self.failure.file or self._seen != self.failure.number:
                made = usual(contract, call)
                return made if isinstance(made, int) else (yield from made)
            self._task = self.process.bus.task
            return (yield from self._open(contract, call, file))

        contract.traps[address] = opening

    def _open_before_call(self, contract: Contract, call: HostedCall, file: str, usual: _Entry) -> Hosted:
        """An open before the call that found nothing: what is to be there first
        comes before all of them, another mode is that of the caller's own open.
        """
        if self._applied or not (self.trial.first or file == self.failure.file):
            made = usual(contract, call)
            return made if isinstance(made, int) else (yield from made)
        self._applied = True
        return (yield from self._open(contract, call, file))

    def _open(self, contract: Contract, call: HostedCall, file: str) -> Hosted:
        rtld, trial = contract.rtld, self.trial
        args = (call.args[4] & 0xFFFFFFFF, call.args[5], contract.arena.read_u64(call.rsp + 8))
        mode = (call.args[1] & 0xFFFFFFFF | trial.set_flags) & ~trial.clear_flags
        namespace = call.args[3] - (1 << 64) if call.args[3] >> 63 else call.args[3]
        if trial.base_namespace:
            namespace = LM_ID_BASE
        main = rtld.namespaces[0].main
        if trial.first and main is not None:
            yield from dl_open(rtld, trial.first, RTLD_NOW | RTLD_GLOBAL, main.map_start, LM_ID_BASE, args)
        return (
            yield from dl_open(rtld, trial.file or file, mode, contract.caller(call.args[2]), namespace, args)
        )

    def _take(self, record: Record) -> None:
        event = record.event
        if isinstance(event, Binding):
            self._bound(event)
            return
        if isinstance(event, dl.OpenFailed) and self._task < 0:
            self._other = event.text
        if record.task != self._task or self.done is not None:
            return
        if isinstance(event, InitStarted):
            self._linked = self._linked or self._left == 1
        elif isinstance(event, dl.OpenRequested):
            self._depth += 1
        elif isinstance(event, (dl.Opened, dl.OpenFailed)):
            self._depth -= 1
            if self._depth:
                return
            if isinstance(event, dl.OpenFailed):
                self._finish(
                    TrialOutcome("fails" if event.text == self.failure.error else "next", event.text)
                )
                return
            self._left -= 1
            if not self._left:
                self._finish(TrialOutcome("opens"))

    def _bound(self, event: Binding) -> None:
        """A name is looked up: perhaps the one that was not found."""
        failure = self.failure
        by_dlsym = event.relocation == "dlsym"
        if self.done is not None or event.symbol != failure.symbol or by_dlsym != (failure.call == "dlsym"):
            return
        if event.handle == failure.flags if by_dlsym else event.origin == failure.file:
            refused = "fails" if self._applied else ""
            self._finish(TrialOutcome("binds" if event.target else refused))

    def _finish(self, outcome: TrialOutcome) -> None:
        self.done = outcome
        self.process.halt()
