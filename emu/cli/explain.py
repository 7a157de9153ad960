"""`emu explain`: why a symbol binds where it does."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from emu.cli import completion, options
from emu.cli.answers import Answering, answer_options
from emu.cli.gathered import gathered
from emu.cli.guest import MixedCommand, has_arguments
from emu.core.errors import EXIT_FINDINGS, EmuError, LinkError
from emu.core.events import AuditorChoseAddress, Binding, EventBus, InitStarted, Record
from emu.core.record import NamedTuple
from emu.process import Process
from emu.process.hosting import needing

if TYPE_CHECKING:
    from emu.analysis.answer import Answer
    from emu.process import RunConfig


class _Question(NamedTuple):
    """What binds: a symbol, referred to by an object, in a version; at the end of the run or before."""

    symbol: str
    from_object: str | None
    version: str | None
    at_exit: bool


@click.command("explain", short_help="Tell why a symbol binds where it does.", cls=MixedCommand)
@options.guest_options
@options.limit_options
@click.option(
    "--from",
    "from_object",
    metavar="OBJECT",
    help="Only the references of OBJECT (soname, file name or path).",
)
@click.option(
    "--version", metavar="V", help="Only references to version V; without one, what dlvsym would give."
)
@click.option("--at-exit", is_flag=True, help="Run the program, and ask at its end.")
@answer_options("analysis.answer:Answer", "The answer of emu explain --json")
@click.argument("program", shell_complete=completion.files)
@click.argument("symbol")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@gathered(options.Guest, "guest")
@gathered(_Question, "question")
def command(
    program: str,
    arguments: tuple[str, ...],
    question: _Question,
    guest: options.Guest,
    answering: Answering,
) -> int:
    """Tell why SYMBOL binds where it does in PROGRAM.

    The answer has each scope and object that was searched and why it was passed over, what won and by which
    rules, what came too late, every relocation slot, and what would change it.

    SYMBOL may be mangled or not, without its parameters if that is clear, and with @VERSION. Only the linking
    at start-up is done, unless there are ARGUMENTS or a -- behind SYMBOL. Then PROGRAM runs, and the answer
    follows its output, on standard error: as things are when OBJECT has been opened and its constructors are
    about to run, or (without --from, or with --at-exit) at the end. The exit code is 1 if nothing of that
    name is there, or a reference binds to nothing that it needs.

    \b
    Examples:
      emu explain ./main printf
      emu explain ./main 'ns::f(int)' --from libplugin.so
      emu explain ./main f@V1
      emu explain --env LD_PRELOAD=./p.so --json ./main malloc
      emu explain ./host create --from ./plugin.so --load ./plugin.so
      emu explain --quiet-program --json ./host create -- | jq .explanations
    """  # noqa: D205 - click shows it as written
    from emu.analysis.text import render

    running = question.at_exit or has_arguments()
    answering = answering._replace(runs=running)
    config = guest.config(program, arguments, hosted=needing)
    asking = _Asking(answering.config(config), question)
    answer = asking.run() if running else asking.start()
    if answer is None:
        print(f"{config.program}: statically linked: no symbol is looked up", file=sys.stderr)
        return EXIT_FINDINGS
    answering.write(answer, lambda: render(answer, width=answering.width, colour=answering.colour))
    unbound = any(e.winner is None and e.reference.binding != "WEAK" for e in answer.explanations)
    return EXIT_FINDINGS if unbound else 0


class _Asking:
    """One process and the question that is asked of it, at its moment."""

    def __init__(self, config: RunConfig, question: _Question) -> None:
        symbol, from_object, version, at_exit = question
        early = from_object is not None and not at_exit
        self.symbol, self.from_object, self.version, self.early = symbol, from_object, version, early
        self.bindings: list[Binding | AuditorChoseAddress] = []
        self.early_answer: Answer | EmuError | None = None
        self._in_part = False
        from emu.analysis.told_then import Then

        bus = EventBus()
        bus.subscribe(self._binding, ("bindings",))
        if early:
            bus.subscribe(self._init, ("init",))
        self.process = Process(config, bus)
        self.then = Then(self.process, symbol, version)

    def start(self) -> Answer | None:
        """Link the program and ask; what ends the linking ends up in the answer."""
        self.early = False
        self.process.load()
        if self.process.rtld is None:
            return None
        failure = ""
        try:
            self.process.start()
        except LinkError as error:
            failure = str(error)
        from emu.analysis.names import NotFoundError

        try:
            return self._ask("after the linking at start-up, before any constructor", failure)
        except NotFoundError as error:
            raise NotFoundError(
                f"{error}; if it comes later, a -- at the end lets the program run first"
            ) from None

    def run(self) -> Answer | None:
        """Run the program and ask, when the object is there or at the end."""
        self.process.load()
        if self.process.rtld is None:
            return None
        failure = ""
        try:
            result = self.process.run()
            ended = f"at the end (exit code {result.status})"
            failure = result.report
        except LinkError as error:
            ended, failure = "at the end", str(error)
        if isinstance(self.early_answer, EmuError):
            raise self.early_answer
        return self.early_answer or self._ask(ended, failure)

    def _ask(self, moment: str, failure: str) -> Answer:
        from emu.analysis.explain import explain

        assert self.process.rtld is not None
        return explain(
            self.process,
            self.process.rtld,
            self.symbol,
            from_object=self.from_object,
            version=self.version,
            moment=moment,
            failure=failure,
            bindings=self.bindings,
            then=self.then.answer(),
        )

    def _binding(self, record: Record) -> None:
        self.bindings.append(record.event)

    def _init(self, record: Record) -> None:
        """Ask as soon as the object is there and linked:
        its constructors, or those of what it needs, come next.

        One that has the name in part only is asked about, too, until one comes that has it as a whole.
        """
        if self.early_answer is not None and not self._in_part or not isinstance(record.event, InitStarted):
            return
        from emu.analysis.names import NotFoundError, find_objects, names_of

        assert self.process.rtld is not None and self.from_object is not None
        try:
            there = find_objects(self.process.rtld, self.from_object)
        except NotFoundError:
            return
        if not all(map_.relocated for map_ in there):
            return
        rtld, word = self.process.rtld, self.from_object
        in_part = "/" not in word and not any(word in names_of(rtld, map_) for map_ in there)
        if in_part and self.early_answer is not None:
            return
        self._in_part = in_part
        moment = f"when {os.path.basename(self.from_object)} was there, before its constructors"
        try:
            self.early_answer = self._ask(moment, "")
        except NotFoundError as error:
            self.early_answer = error  # the program goes on first
