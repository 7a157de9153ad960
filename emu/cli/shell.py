"""`emu shell`: a process of the guest at a Python prompt."""

from __future__ import annotations

import code
import linecache
import os
import sys
import traceback
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from emu.cli import answers, completion, options, parameters, streams
from emu.cli.guest import MixedCommand
from emu.core.errors import EXIT_FINDINGS, EmuError

if TYPE_CHECKING:
    import emu

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@click.command("shell", short_help="Give a Python prompt with the process in it.", cls=MixedCommand)
@options.session_options
@click.option(
    "--trace", "categories", callback=parameters.categories, default="all", metavar="CATEGORIES",
    help="The events to keep for p.events() and p.step(), as for emu run (default: all); they are not printed.",
)  # fmt: skip
@click.option(
    "--stdin", type=click.File("rb", lazy=False), metavar="FILE",
    help="The guest's standard input; /dev/null otherwise, since the terminal is the prompt's.",
)  # fmt: skip
@click.option("-c", "code_text", metavar="CODE", help="Run this Python code in place of a prompt.")
@click.option("--plain", is_flag=True, help="Python's own prompt, even where IPython is installed.")
@click.argument("program", required=False, shell_complete=completion.files)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    program: str | None,
    arguments: tuple[str, ...],
    running: options.Running,
    categories: tuple[str, ...],
    stdin: BinaryIO | None,
    code_text: str | None,
    plain: bool,
) -> int:
    """Load PROGRAM, stop before its first instruction, and give a Python prompt with the process in it.

    p is the emu.Process; emu and ctypes are imported. Libraries are linked and initialised, so guest
    functions can be called; p.run() lets PROGRAM run, and Ctrl-C is then the guest's, as in emu run. Without
    PROGRAM the process is an empty one that hosts libraries. Behind PROGRAM come its arguments, behind -- if
    they read as options of emu shell.

    Where standard input is no terminal, its lines run as a script. An error that a script leaves uncaught
    ends it with a traceback and exit code 1.

    \b
    Examples:
      emu shell ./main
      emu shell                                      then: libm = p.dlopen("libm.so.6")
      emu shell --trace dl,dtors ./host --load a.so  then: p.step("dl")
      emu shell -c 'print(p.scopes("libc.so.6"))' ./main
      emu shell ./main < questions.py
    """
    if code_text is None and sys.stdin is None:
        raise click.UsageError(
            "standard input is closed, so there is nothing to read Python code from: use -c"
        )
    if code_text is None and stdin is sys.stdin.buffer:
        raise click.UsageError(
            "--stdin -: standard input holds the Python code already; only -c leaves it free"
        )
    import ctypes

    import emu

    streams.allow_escapes()
    # The guest writes to the same descriptors, unbuffered by us.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with running.policy() as policy, open(os.devnull, "rb") as nothing:
        found, variables = None, options.environment(running.variables, running.clean_env)
        cwd = options.guest_directory(running.fields["sysroot"])
        if program is not None:
            config = running.config(program, arguments)
            found, variables, cwd = config.program, config.env, config.cwd
        with emu.Process(
            found, arguments, variables, cwd=cwd, trace=categories, schedule=policy, stdin=stdin or nothing, **running.fields
        ) as process:  # fmt: skip
            namespace = {"__name__": "__main__", "p": process, "emu": emu, "ctypes": ctypes}
            if code_text is not None:
                return _script(code_text, "<string>", namespace)
            if not sys.stdin.isatty():
                return _script(sys.stdin.buffer.read(), "<stdin>", namespace)
            _prompt(namespace, _banner(process, program, given=stdin is not None), plain=plain)
    return 0


class _Console(code.InteractiveConsole):
    """Python's own prompt, or a script.

    `failed` tells whether an error was left; one of emu's own is shown without emu's frames.
    """

    failed = False

    def showtraceback(self) -> None:
        """Show the error that is being handled."""
        self.failed = True
        kind, error, trace = sys.exc_info()
        if kind is None or not isinstance(error, EmuError):
            super().showtraceback()
            return
        sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace
        shown = traceback.TracebackException(kind, error, trace)
        users = [frame for frame in shown.stack[1:] if not frame.filename.startswith(_PACKAGE)]
        shown.stack = traceback.StackSummary.from_list(users)
        self.write("".join(shown.format()))

    def showsyntaxerror(self, filename: str | None = None, **more: Any) -> None:
        """Show an error of the syntax."""
        self.failed = True
        super().showsyntaxerror(filename, **more)


def _script(source: str | bytes, name: str, namespace: dict[str, Any]) -> int:
    """Run a whole script; return 1 if an error was left, else 0."""
    console = _Console(namespace)
    try:
        compiled = compile(source, name, "exec")
    except (SyntaxError, ValueError):
        console.showsyntaxerror(name)
        return EXIT_FINDINGS
    text = source if isinstance(source, str) else source.decode("utf-8", "replace")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    console.runcode(compiled)
    return EXIT_FINDINGS if console.failed else 0


def _banner(process: emu.Process, program: str | None, *, given: bool) -> str:
    """Return what the user sees first: where things stand, what to try, who owns the terminal."""
    if program is None:
        stands = "an empty program stands ready to host libraries"
        tries = 'lib = p.dlopen("libm.so.6"), lib.abs(-5), p.link_maps, p.why_loaded("libm.so.6")'
    elif process.inner.rtld is None:
        stands = f"{program} is statically linked and stands before its first instruction"
        tries = 'p.step("syscalls"), p.step("trap"), p.run(), p.events()'
    else:
        stands = f"{program} is linked and initialised, and stands before its first instruction"
        tries = 'p.link_maps, p.scopes("libc.so.6"), p.explain("exit"), p.tls(), p.step("dl"), p.run()'
    reads = "the file of --stdin" if given else "/dev/null (see --stdin)"
    return (
        f"{stands}: p is the emu.Process\n"
        f"try {tries}; help(emu.Process)\n"
        f"the terminal is this prompt's: the guest reads {reads}; Ctrl-D leaves"
    )


def _prompt(namespace: dict[str, Any], banner: str, *, plain: bool) -> None:
    """Talk with the user until they leave."""
    if not plain and find_spec("IPython") is not None:
        from IPython import start_ipython
        from traitlets.config import Config

        config = Config()
        config.TerminalInteractiveShell.banner1 = banner + "\n"
        if not answers.wants_colour():
            config.TerminalInteractiveShell.colors = "NoColor"
        start_ipython(argv=[], user_ns=namespace, config=config)
        return
    if find_spec("readline") is not None:
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(namespace).complete)
        readline.parse_and_bind("tab: complete")
    _Console(namespace).interact(banner, exitmsg="")
