"""`emu explain`: why a symbol binds where it does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from emu.cli import options
from emu.core.errors import EXIT_FINDINGS, EmuError, LinkError
from emu.core.events import AuditorChoseAddress, Binding, EventBus, InitStarted, Record
from emu.process import Process

if TYPE_CHECKING:
    from emu.analysis.answer import Answer
    from emu.process import RunConfig


def _print_schema(ctx: click.Context, _param: click.Parameter, asked: bool) -> None:
    if asked:
        from emu.analysis.answer import Answer
        from emu.analysis.data import schema

        print(json.dumps(schema(Answer, "The answer of emu explain --json"), indent=2))
        ctx.exit()


@click.command("explain", short_help="Tell why a symbol binds where it does.", cls=options.SeparatedCommand)
@options.guest_options
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
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--schema", is_flag=True, is_eager=True, expose_value=False, callback=_print_schema,
    help="Print the JSON Schema of --json and stop.",
)  # fmt: skip
@click.argument("program")
@click.argument("symbol")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str,
    symbol: str,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    clean_env: bool,
    sysroot: str,
    from_object: str | None,
    version: str | None,
    at_exit: bool,
    as_json: bool,
) -> int:
    """Tell why SYMBOL binds where it does in PROGRAM.

    The answer has each scope and object that was searched and why it was passed over, what won and by which rules,
    what came too late, every relocation slot, and what would change it.

    SYMBOL may be mangled or not, without its parameters if that is clear, and with @VERSION. Without -- only the linking at start-up
    is done. With -- ARGUMENTS PROGRAM runs, and the answer follows its output: as things are when OBJECT has been opened and its
    constructors are about to run, or (without --from, or with --at-exit) at the end.
    The exit code is 1 if nothing of that name is there, or a reference binds to nothing that it needs.

    \b
    Examples:
      emu explain ./main printf
      emu explain ./main 'ns::f(int)' --from libplugin.so
      emu explain ./main f@V1
      emu explain --env LD_PRELOAD=./p.so --json ./main malloc
      emu explain ./host create --from ./plugin.so -- --load ./plugin.so
    """  # noqa: D205 - click shows it as written
    separated = click.get_current_context().meta[options.SEPARATED]
    if arguments and not separated:
        raise click.UsageError(f"arguments of the program go behind `--': {arguments[0]!r}")
    running = at_exit or separated
    config = options.run_config(program, arguments, variables, clean_env, sysroot)
    asking = _Asking(config, symbol, from_object, version, early=from_object is not None and not at_exit)
    answer = asking.run() if running else asking.start()
    if answer is None:
        print(f"{config.program}: statically linked: no symbol is looked up", file=sys.stderr)
        return EXIT_FINDINGS
    if as_json:
        from emu.analysis.data import as_json as convert

        print(json.dumps(convert(answer), indent=2))
    else:
        from emu.analysis.text import render

        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else 0
        sys.stdout.write(render(answer, width=width, colour=terminal and options.wants_colour()))
    unbound = any(e.winner is None and e.reference.binding != "WEAK" for e in answer.explanations)
    return EXIT_FINDINGS if unbound else 0


class _Asking:
    """One process and the question that is asked of it, at its moment."""

    def __init__(
        self, config: RunConfig, symbol: str, from_object: str | None, version: str | None, *, early: bool
    ) -> None:
        self.symbol, self.from_object, self.version, self.early = symbol, from_object, version, early
        self.bindings: list[Binding | AuditorChoseAddress] = []
        self.early_answer: Answer | EmuError | None = None
        bus = EventBus()
        bus.subscribe(self._binding, ("bindings",))
        if early:
            bus.subscribe(self._init, ("init",))
        self.process = Process(config, bus)

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
        return self._ask("after the linking at start-up, before any constructor", failure)

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
        )

    def _binding(self, record: Record) -> None:
        self.bindings.append(record.event)

    def _init(self, record: Record) -> None:
        """Ask as soon as the object is there and linked: its constructors, or those of what it needs, come next."""
        if self.early_answer is not None or not isinstance(record.event, InitStarted):
            return
        from emu.analysis.names import NotFoundError, find_objects

        assert self.process.rtld is not None and self.from_object is not None
        try:
            there = find_objects(self.process.rtld, self.from_object)
        except NotFoundError:
            return
        if not all(map_.relocated for map_ in there):
            return
        moment = f"when {os.path.basename(self.from_object)} was there, before its constructors"
        try:
            self.early_answer = self._ask(moment, "")
        except NotFoundError as error:
            self.early_answer = error  # the program goes on first
