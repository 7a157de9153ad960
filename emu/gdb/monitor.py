"""The monitor commands: the loader's view of the place where the guest stands, and
ways to go elsewhere in its run.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emu.analysis import why
from emu.analysis.explain import explain
from emu.analysis.names import find_objects
from emu.analysis.reasons import ReasonFinder
from emu.analysis.text import render as render_answer
from emu.analysis.why_text import moment_lines
from emu.core.dl_events import CloseRequested, OpenRequested, Unloading
from emu.core.errors import EmuError
from emu.core.events import CATEGORY_OF, Binding, Record
from emu.core.tls_events import DtorRun
from emu.gdb.libraries import link_maps
from emu.process.hosted_functions import hosted_name
from emu.trace.text import render_brief

if TYPE_CHECKING:
    from emu.gdb.target import Target
    from emu.rtld.link_map import LinkMap

_MOST = 200
_DL: dict[str, tuple[type, str]] = {
    "open": (OpenRequested, "file"),
    "close": (CloseRequested, "name"),
    "unload": (Unloading, "name"),
}


class MonitorError(EmuError):
    """A monitor command that makes no sense here."""


def obey(target: Target, line: str) -> Iterator[str]:
    """Do what a command line says; yield lines for the user."""
    name, *words = line.split()
    command = _COMMANDS.get(name)
    if command is None:
        yield f"emu: no monitor command {name!r}: help lists them"
        return
    try:
        yield from command(target, words)
    except (EmuError, OSError, ValueError) as error:
        yield f"emu: {error}"


def _help(_target: Target, _words: list[str]) -> Iterator[str]:
    """help: this list."""
    for command in _COMMANDS.values():
        yield " ".join(str(command.__doc__).split())
    yield "exit: end the process and the server."


# -- the loader's view ---------------------------------------------------------------------------------------


def _maps(target: Target, name: str) -> list[LinkMap]:
    rtld = target.process.rtld
    if rtld is None:
        raise MonitorError("the program has no dynamic linker of emu's")
    return find_objects(rtld, name)


def _one(words: list[str], what: str) -> str:
    if len(words) != 1:
        raise MonitorError(f"give {what}")
    return words[0]


def _why(target: Target, words: list[str]) -> Iterator[str]:
    """why LIB: why it is loaded, and what would let it go."""
    maps = _maps(target, _one(words, "a library"))
    rtld = target.process.rtld
    assert rtld is not None
    for life in why.now(ReasonFinder(target.process, rtld, target.history), words[0], maps).generations:
        yield f"{life.name} stays loaded:"
        yield from (line[2:] for line in moment_lines(life.moments[0], life.name))


def _explain(target: Target, words: list[str]) -> Iterator[str]:
    """explain SYMBOL: why it binds where it does."""
    rtld = target.process.rtld
    if rtld is None:
        raise MonitorError("the program has no dynamic linker of emu's")
    yield from render_answer(explain(target.process, rtld, _one(words, "a symbol"))).splitlines()


def _dtors(target: Target, words: list[str]) -> Iterator[str]:
    """dtors [THREAD]: the thread_local destructors that are pending, the next to run first."""
    process = target.process
    atexit = process.contract.atexit if process.contract is not None else None
    if process.rtld is None or atexit is None:
        yield "the list is not known here"
        return
    for task in target.tasks():
        if words and str(task.tid) != words[0]:
            continue
        yield f"thread {task.tid} ({task.name}):"
        pending = list(atexit.pending(target.thread_pointer(task)))
        for number, node in enumerate(pending, 1):
            owner = process.rtld.by_address.get(node.owner)
            whose = (
                owner.display_name if owner is not None else f"{node.owner:#x}, which is no object any more"
            )
            function = process.symbols.describe(node.function)
            where = process.symbols.source(node.function)
            place = f" at {where}" if where else ""
            yield f"  {number}. {function}{place} for the object at {node.object:#x}, of {whose}"
        if not pending:
            yield "  none"


def _tls(target: Target, _words: list[str]) -> Iterator[str]:
    """tls: the TLS modules, and each thread's blocks of them."""
    rtld = target.process.rtld
    if rtld is None:
        return
    for map_ in link_maps(target.process):
        if not map_.tls_modid:
            continue
        kind = f"static, {map_.tls_offset:#x} below the thread pointer" if map_.tls_offset > 0 else "dynamic"
        yield f"module {map_.tls_modid}: {map_.display_name}, {map_.tls_blocksize} bytes, {kind}"
        for task in target.tasks():
            pointer = target.thread_pointer(task)
            block = pointer - map_.tls_offset if map_.tls_offset > 0 else rtld.tls.soft_block(pointer, map_)
            yield f"  thread {task.tid}: {hex(block) if block else 'none yet'}"


def _scopes(target: Target, words: list[str]) -> Iterator[str]:
    """scopes LIB: where its references are looked up, in their order."""
    for map_ in _maps(target, _one(words, "a library")):
        yield f"{map_.display_name}:"
        for number, scope in enumerate(map_.scopes):
            yield f"  scope {number}: {' '.join(member.display_name for member in scope.maps)}"


# -- events and places ---------------------------------------------------------------------------------------


def _line(target: Target, number: int) -> str:
    catches = target.catches
    told = catches.events[number - 1]
    return f"{'*' if number > catches.told else ' '}#{told.number:<5} {render_brief(told.record).strip()}"


def _events(target: Target, words: list[str]) -> Iterator[str]:
    """events [CATEGORY]: what has happened, with numbers for goto;
    a star marks what comes again from here.
    """
    catches = target.catches
    wanted = [
        told.number
        for told in catches.events
        if not words or CATEGORY_OF[type(told.record.event)] == words[0]
    ]
    if len(wanted) > _MOST:
        yield f"({len(wanted) - _MOST} earlier ones are left out)"
    for number in wanted[-_MOST:]:
        yield _line(target, number)


def _goto(target: Target, words: list[str]) -> Iterator[str]:
    """goto #N | CATEGORY:N | begin: go to an event, or to the first instruction;
    a debugger must read all registers again.
    """
    place = _one(words, "#N, CATEGORY:N or begin")
    if target.timeline.why_not:
        raise MonitorError(f"there is no history: {target.timeline.why_not}")
    if place == "begin":
        target.go_begin()
        yield "at the first instruction"
        return
    number = target.find_event(place)
    yield f"at {_line(target, number).strip(' *')}"


def _history(target: Target, _words: list[str]) -> Iterator[str]:
    """history: how much of it there is."""
    timeline = target.timeline
    if timeline.why_not:
        yield f"none: {timeline.why_not}"
        return
    count, size = timeline.held
    yield f"{count} snapshots, {size >> 20} MiB, {len(target.catches.events)} events"


def _hosted(target: Target, words: list[str]) -> Iterator[str]:
    """hosted RSP: the name of the loader's function whose call returns with that stack pointer."""
    runner = target.process.runner
    entry = runner.entry_of(int(_one(words, "a stack pointer"), 0)) if runner is not None else None
    yield hosted_name(target.process, entry) if entry is not None else "?"


def _running(target: Target, _words: list[str]) -> Iterator[str]:
    """running: the id of the thread that has the CPU."""
    yield str(target.execution.task.tid)


# -- catchpoints ---------------------------------------------------------------------------------------------


def _catch(target: Target, words: list[str]) -> Iterator[str]:
    """catch dtor [LIB] | bind SYMBOL | dl open|close|unload [LIB] | off: stop at the loader's own events."""
    if words == ["off"]:
        target.catches.wanted.clear()
        yield "nothing of the loader's is caught"
        return
    target.catches.want(" ".join(words), _wanted(target, words))
    yield f"{' '.join(words)} is caught"


def _wanted(target: Target, words: list[str]) -> Callable[[Record], bool]:
    match words:
        case ["dtor", *rest] if len(rest) < 2:
            return _is(DtorRun, "owner", rest)
        case ["bind", symbol]:
            target.catches.listen("bindings")
            return _is(Binding, "symbol", [symbol])
        case ["dl", "open" | "close" | "unload" as what, *rest] if len(rest) < 2:
            kind, member = _DL[what]
            return _is(kind, member, rest)
    raise MonitorError("catch dtor [LIB], bind SYMBOL, dl open|close|unload [LIB], or off")


def _is(kind: type, member: str, patterns: list[str]) -> Callable[[Record], bool]:
    def wanted(record: Record) -> bool:
        if not isinstance(record.event, kind):
            return False
        name = getattr(record.event, member)
        return not patterns or any(
            fnmatch.fnmatchcase(word, patterns[0]) for word in (name, os.path.basename(name))
        )

    return wanted


_COMMANDS: dict[str, Callable[[Target, list[str]], Iterator[str]]] = {
    "help": _help, "why": _why, "explain": _explain, "dtors": _dtors, "tls": _tls, "scopes": _scopes, "events": _events,
    "goto": _goto, "history": _history, "catch": _catch, "hosted": _hosted, "running": _running,
}  # fmt: skip
