"""Events as text: one line each, for people.

The columns are sequence number, seconds of virtual time, task, category, and then what happened, with a verb
first. The brief form has only the task and what happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core import events as ev
from emu.core import task_events, tls_events
from emu.core.events import CATEGORY_OF
from emu.core.text import printable
from emu.elf.demangle import demangle
from emu.trace.dl_text import DL_RENDERERS
from emu.trace.ldso_text import LDSO_RENDERERS

if TYPE_CHECKING:
    from collections.abc import Callable

BEGINNING = "# emu trace: number, seconds of virtual time, task, category, event"
"""The first line of a text trace in a file."""
BRIEF_BEGINNING = "# emu trace: task, event"
"""The first line of a brief one."""
BEGINNINGS: tuple[str, ...] = (BEGINNING, BRIEF_BEGINNING)

_COLOURS = {
    "libs": 36, "bindings": 34, "reloc": 34, "init": 32, "fini": 32, "tls": 35, "dtors": 33, "syscalls": 37, "faults": 31, "threads": 33, "sched": 90, "dl": 36,
    "scopes": 36, "ldso": 36, "lookups": 34, "symbols": 34,
}  # fmt: skip
"""The SGR foreground colour of each category (ECMA-48)."""


def _search(e: ev.LibrarySearch) -> str:
    outcome = "found" if e.found else f"there, but {e.machine}" if e.machine else "not found"
    return f"try {e.path} for {e.name} ({e.rule}): {outcome}"


def _load(e: ev.LibraryLoad) -> str:
    needed = f" for {e.needed_by}" if e.needed_by else ""
    namespace = f" in namespace {e.namespace}" if e.namespace else ""
    return (
        f"load {e.path or e.name} at {e.start:#x}-{e.end:#x}, bias {e.base:#x}{needed} ({e.rule}){namespace}"
    )


_KNOWN_BY = {
    "needed-as": "which was needed by that name before",
    "soname": "by its SONAME",
    "path": "by a path",
}


def _reused(e: ev.LibraryReused) -> str:
    namespace = f" in namespace {e.namespace}" if e.namespace else ""
    return f"take {e.library} for {e.name}, needed by {e.needed_by}{namespace}: it is there, {_KNOWN_BY.get(e.known_by, e.known_by)}"


def _auditor_file(e: ev.AuditorChoseFile) -> str:
    return f"auditor {e.auditor}: {e.chosen or 'nothing'} in place of {e.name} ({e.source}), for {e.by}"


def _auditor_address(e: ev.AuditorChoseAddress) -> str:
    return (
        f"auditor {e.auditor}: {e.symbol} of {e.origin} leads to {e.chosen:#x} "
        f"in place of {e.address:#x} in {e.target} ({e.function})"
    )


def _binding(e: ev.Binding) -> str:
    plain = demangle(e.symbol)
    symbol = f"{plain}@{e.version}" if e.version else plain
    if e.relocation == "dlsym":
        by = f" by {e.caller}" if e.caller else ""
        found = f"{e.target} {e.address:#x}" if e.target else "not found"
        special = e.handle.startswith("RTLD_")
        handle = f"{e.handle} of {e.origin}" if special else f"handle of {e.handle}"
        return f"dlsym({handle}, {symbol}){by}: {found}"
    lazy = ", lazily" if e.lazy else ""
    target = f"{e.target} {e.address:#x}" if e.target else "nothing"
    return f"bind {symbol} of {e.origin} to {target} ({e.relocation} at {e.slot:#x}{lazy})"


def _relocation(e: ev.RelocationStarted) -> str:
    return f"begin relocation of {e.name}{' (lazy)' if e.lazy else ''}"


def _relocated(e: ev.Relocated) -> str:
    return f"relocate {e.name}: {e.relative} relative, {e.symbolic} symbolic, {e.lazy} lazy, {e.ifunc} ifunc"


def _relro(e: ev.RelroProtected) -> str:
    return f"protect {e.start:#x}-{e.end:#x} of {e.name} (RELRO)"


def _started(e: ev.InitStarted | ev.FiniStarted) -> str:
    return f"begin with {e.name}" + (f" in namespace {e.namespace}" if e.namespace else "")


def _call(e: ev.Initializer | ev.Finalizer) -> str:
    return f"call {e.function or 'a function'} at {e.address:#x} of {e.name} ({e.kind})"


def _module(e: tls_events.TlsModuleAssigned) -> str:
    place = f"static at fs-{e.offset:#x}" if e.offset else "dynamic"
    return f"assign module {e.module} to {e.name}: {e.size} bytes aligned to {e.align}, {place}"


def _layout(e: tls_events.TlsStaticLayout) -> str:
    return f"fix static TLS: {e.used} of {e.size} bytes aligned to {e.align}, surplus {e.surplus}"


def _block(e: tls_events.TlsBlockAllocated) -> str:
    return f"allocate module {e.module} of {e.name} at {e.address:#x} ({'static' if e.static else 'heap'})"


def _dtv(e: tls_events.DtvResized) -> str:
    return f"resize DTV at {e.dtv:#x}: {e.slots} slots, generation {e.generation}"


def _source(source: str) -> str:
    return f" [{source}]" if source else ""


def _registered(e: tls_events.DtorRegistered) -> str:
    count = f"{e.count_before} -> {e.count_after}"
    return f"register {e.function} on {e.object:#x}, owner {e.owner}: {count}{_source(e.source)}"


def _run(e: tls_events.DtorRun) -> str:
    return f"run      {e.function} on {e.object:#x}, owner {e.owner}{_source(e.source)}"


def _done(e: tls_events.DtorDone) -> str:
    return f"done     {e.function} on {e.object:#x}, owner {e.owner}: {e.count_before} -> {e.count_after}"


def _syscall(e: task_events.Syscall) -> str:
    return f"{e.name}({e.arguments}) = {e.result}"


def _fault(e: task_events.Fault) -> str:
    handled = "handled" if e.handled else "not handled"
    return f"{e.signal}: {e.access} at {e.address:#x} by {e.where} (pc {e.pc:#x}), {handled} by the program"


def _created(e: task_events.ThreadCreated) -> str:
    return f"create thread {e.thread} ({e.name}), stack from {e.stack:#x}"


def _named(e: task_events.ThreadNamed) -> str:
    return f"name thread {e.thread}: {e.name}"


def _exited(e: task_events.ThreadExited) -> str:
    return f"exit thread {e.thread} ({e.name}) with status {e.status}"


def _forked(e: task_events.ProcessCreated) -> str:
    return f"create process {e.process} ({e.name})"


def _ended(e: task_events.ProcessEnded) -> str:
    how = f"by signal {e.status & 0x7F}" if e.status & 0x7F else f"with status {e.status >> 8}"
    return f"exit process {e.process} ({e.name}) {how}"


def _executed(e: task_events.ProgramExecuted) -> str:
    return f"execute {e.path} in process {e.process}"


def _joined(e: task_events.ThreadJoined) -> str:
    return f"join thread {e.thread}: {e.joiner} waited for its end"


def _switched(e: task_events.Switch) -> str:
    return f"switch {e.previous} -> {e.next}: {e.reason}"


RENDERERS: dict[type[Any], Callable[[Any], str]] = {
    ev.LibrarySearch: _search,
    ev.LibraryLoad: _load,
    ev.LibraryReused: _reused,
    ev.Binding: _binding,
    ev.AuditorChoseFile: _auditor_file,
    ev.AuditorChoseAddress: _auditor_address,
    ev.RelocationStarted: _relocation,
    ev.Relocated: _relocated,
    ev.RelroProtected: _relro,
    ev.InitStarted: _started,
    ev.FiniStarted: _started,
    ev.Initializer: _call,
    ev.Finalizer: _call,
    tls_events.TlsModuleAssigned: _module,
    tls_events.TlsStaticLayout: _layout,
    tls_events.TlsBlockAllocated: _block,
    tls_events.DtvResized: _dtv,
    tls_events.DtorRegistered: _registered,
    tls_events.DtorRun: _run,
    tls_events.DtorDone: _done,
    task_events.Syscall: _syscall,
    task_events.Fault: _fault,
    **DL_RENDERERS,
    task_events.ThreadCreated: _created,
    task_events.ThreadNamed: _named,
    task_events.ThreadExited: _exited,
    task_events.ProcessCreated: _forked,
    task_events.ProcessEnded: _ended,
    task_events.ProgramExecuted: _executed,
    task_events.ThreadJoined: _joined,
    task_events.Switch: _switched,
    task_events.ForcedSwitch: lambda e: (
        "the host's clock takes the CPU from a thread that only computes: this run is not the same every time"
    ),
    **LDSO_RENDERERS,
}


def render(record: ev.Record) -> str:
    """Return the record's line, without the newline."""
    seconds, rest = divmod(record.time, 1_000_000_000)
    category = CATEGORY_OF[type(record.event)]
    return f"{record.sequence:>6} {seconds}.{rest:09d} {_who(record)} {category:<8} {_said(record)}"


def render_brief(record: ev.Record) -> str:
    """Return a line that has the task and what happened."""
    return f"{_who(record)} {_said(record)}"


def _who(record: ev.Record) -> str:
    """Return the thread, with its process where that is neither the first nor named by the thread's id."""
    if record.process in (0, record.task):
        return f"{record.task:>5}"
    return f"{record.process}/{record.task}"


def _said(record: ev.Record) -> str:
    return printable(RENDERERS[type(record.event)](record.event))


def render_coloured(record: ev.Record) -> str:
    """Return the line with its category in colour, for a terminal."""
    line = render(record)
    category = CATEGORY_OF[type(record.event)]
    head, _, tail = line.partition(f" {category} ")
    return f"{head} \x1b[{_COLOURS[category]}m{category}\x1b[0m {tail}"
