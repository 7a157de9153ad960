"""One run, taken down in a form that can be compared with another's:
no addresses, no times, the system's own objects by their names.

Our loader tells by events. A real ld.so is seen by what a debugger sees of it; glibc's is run once more with
LD_DEBUG, which adds bindings and the order of constructors and destructors. What the guest writes goes to
files, so that nothing of a run is mixed with another's.
"""

from __future__ import annotations

import os
import re
import tempfile
from typing import TYPE_CHECKING, Any

from emu.analysis.check import chosen_rules
from emu.analysis.check_tree import TreeChecker
from emu.analysis.diff_data import EMU, FACETS, REAL, Side
from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core import tls_events
from emu.core.errors import ElfError, EmuError, UnsupportedError
from emu.core.ldso_events import SymbolBound
from emu.core.record import NamedTuple
from emu.core.task_events import ProgramExecuted
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic
from emu.elf.header import parse_ehdr, parse_phdrs
from emu.glibc.choose_layout import release_at
from emu.glibc.debug_files import DebugSystem
from emu.glibc.system_dirs import system_dirs
from emu.process import Process
from emu.rtld.link_map import LT_LIBRARY, LinkMap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from emu.analysis.check_data import Report
    from emu.core.events import Record
    from emu.core.files import FileSystem
    from emu.kernel.run.policy import Policy
    from emu.process import RunConfig

_HEADERS = 1 << 16
_CATEGORIES = ("libs", "dl", "init", "fini", "tls", "lookups", "threads")
_OF_REAL = ("libs", "dl", "init", "fini", "threads")
_LINE = re.compile(rb"(\d+):\t(.*)$", re.MULTILINE)
_SAID = (
    ("init", re.compile(r"calling init: (.+)$")),
    ("fini", re.compile(r"calling fini: (.*?)(?: \[(\d+)\])?$")),
    ("unloads", re.compile(r"file=(.*?) \[(\d+)\];  destroying link map$")),
)
_BOUND = re.compile(
    r"binding file (.+?) \[(\d+)\] to (.+?) \[(\d+)\]: (?:normal|protected) symbol `(.*)'(?: \[(.*)\])?$"
)
_LD_DEBUG = "/dev/shm/ld-debug"  # noqa: S108 - the guest's, in memory; ld.so adds the process's id
"""Where ld.so tells: of the first process alone, and after the program has closed its standard error, too."""
_DEBUG = "_r_debug"
"""Some releases look this up for a debugger's sake: no reference of the program's."""


class Item(NamedTuple):
    """A fact: `key` is what is compared, `text` what is shown."""

    key: str
    text: str


class Observation(NamedTuple):
    """A run: its facts by facet (see `FACETS`), and why the other facets are not there.

    `started`: ld.so did not end it with an error.
    """

    side: Side
    started: bool
    facts: dict[str, list[Item]]
    unseen: dict[str, str]


class CapturedOutput(NamedTuple):
    """What a run wrote and how it ended; `report` is what emu check says of it.

    `started`: the program was linked.
    """

    output: bytes
    errors: bytes
    status: int
    words: str
    report: Report | None
    started: bool


def observe(config: RunConfig, policy: Callable[[], Policy], stdin: bytes, side: str) -> Observation:
    """Run a program once (with a real ld.so of glibc twice) and take down what happened.

    Raises EmuError for what cannot be run.
    """
    notes = _Notes(config.program, config.argv0 or config.program)
    bus = ev.EventBus()
    # A function's, not an object's of this package, which are forgotten with a program that executes another.
    bus.subscribe(lambda record: notes.event(record), _CATEGORIES if config.ldso == EMU else _OF_REAL)
    captured, process, release = _run(config._replace(policy=policy()), stdin, bus, notes)
    facts = notes.facts()
    process.close()  # more runs follow, and each wants its share of the host's addresses
    facts["output"] = _lines(captured.output)
    linking = bool(captured.words) and not captured.words.startswith("emu: ")
    facts["errors"] = _lines(captured.errors + (f"{captured.words}\n".encode() if linking else b""))
    facts["ending"] = [Item(str(captured.status), f"exit code {captured.status}")]
    if captured.words and not linking:
        killed = re.search(r"killed by \w+", captured.words)
        facts["ending"].append(
            Item(killed[0] if killed else captured.words, captured.words.partition("\n")[0])
        )
    unseen = {}
    if captured.report is not None:
        facts["findings"] = [
            Item(f"{f.rule}: {' '.join(map(os.path.basename, f.objects))}", f"[{f.rule}] {f.message}")
            for f in captured.report.findings
        ]
    if config.ldso == REAL and process.rendezvous is not None:
        unseen = _ask_ld_debug(config._replace(policy=policy()), stdin, notes, facts)
    seen = Side(side, config.sysroot, config.ldso, release, captured.status)
    return Observation(seen, captured.started, facts, unseen)


def _run(
    config: RunConfig, stdin: bytes, bus: ev.EventBus, notes: _Notes
) -> tuple[CapturedOutput, Process, str]:
    """Run the program; return what it left, the process, and its glibc's release."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.flush()
        given.seek(0)
        config = config._replace(stdio=(given.fileno(), out.fileno(), err.fileno()))
        process = Process(config, bus)
        notes.watch(process)
        report, release = None, ""
        if config.ldso == EMU:
            report = TreeChecker(process, chosen_rules((), ()), "all").run()
            status, words = report.exit_code, report.ended
            if process.rtld is not None and process.contract is not None:
                notes.directories = process.rtld.search.system_dirs.directories
                release = process.contract.layout.version
        else:
            process.load()
            release = _release(process, notes)
            status, words = _run_real(process)
        out.seek(0)
        err.seek(0)
        captured = CapturedOutput(out.read(), err.read(), status, words, report, _started(process))
        return captured, process, release


def _started(process: Process) -> bool:
    """Whether the program was linked, so that its code could run: what follows is its own doing."""
    if process.rendezvous is not None:
        return bool(process.rendezvous.objects)  # a linker shows its list when it has done its work
    return process.rtld is None or process.rtld.started


def _run_real(process: Process) -> tuple[int, str]:
    try:
        result = process.run()
    except EmuError as error:
        if process.runner is None:
            raise
        return error.exit_code, f"emu: {error}"
    return result.status, result.report


def _ask_ld_debug(
    config: RunConfig, stdin: bytes, notes: _Notes, facts: dict[str, list[Item]]
) -> dict[str, str]:
    """Add what LD_DEBUG tells of a second run to the facts; return what stays unseen."""
    unseen = {"tls": "a real ld.so does not tell", "findings": "emu check needs emu's loader"}
    for name in ("tls", "bindings"):
        del facts[name]
    if not notes.directories:
        return unseen | {"bindings": "this libc has no LD_DEBUG"}
    asked = {"LD_DEBUG": "files,bindings", "LD_DEBUG_OUTPUT": _LD_DEBUG}
    _, process, _ = _run(config._replace(env=config.env | asked), stdin, ev.EventBus(), notes)
    try:
        facts.update(notes.said(_content(process.kernel.fs, f"{_LD_DEBUG}.{process.kernel.pid}")))
    except OSError:
        return unseen | {"bindings": "ld.so tells nothing of a program in secure mode"}
    finally:
        process.close()
    return unseen


def _content(files: FileSystem, path: str) -> bytes:
    """Return what a guest has written to a file. Raises OSError."""
    backing = files.look_at(path)
    return backing.pread(backing.size(), 0)


def _lines(data: bytes) -> list[Item]:
    lines = data.decode(errors="surrogateescape").splitlines(keepends=True)
    return [Item(line, line.rstrip("\n")) for line in lines]


def _release(process: Process, notes: _Notes) -> str:
    """Return the release of a process's glibc, empty if it is another libc;
    let the notes know its directories. To be asked before the process runs.
    """
    loaded = process.loaded
    if loaded is None or loaded.interpreter is None:
        return ""
    image = loaded.interpreter
    probe = LinkMap(image.path, image.path, LT_LIBRARY, 0, None)
    probe.addr, probe.phdrs = image.bias, list(image.phdrs)
    probe.read_dynamic(process.arena)
    try:
        notes.directories = system_dirs(probe, process.arena, process.cpu.features.level).directories
        return release_at(DebugSystem(process.kernel.fs, process.config.sysroot), image.path)
    except (UnsupportedError, ElfError, OSError):
        notes.directories = ()
        return ""  # another libc


def _functions(files: FileSystem, path: str) -> dict[str, bool]:
    """Return whether the object in a file has constructors ("init") and destructors ("fini");
    nothing where it cannot be read.
    """
    try:
        backing = files.look_at(path)
        header = backing.pread(_HEADERS, 0)
        phdrs = parse_phdrs(header, parse_ehdr(header, path), path)
        section = next((phdr for phdr in phdrs if phdr.type == c.PT_DYNAMIC), None)
        if section is None:
            return {}
        entries = Dynamic(backing.pread(section.filesz, section.offset), path)
    except (OSError, ElfError):
        return {}
    tags = {"init": (c.DT_INIT, c.DT_INIT_ARRAYSZ), "fini": (c.DT_FINI, c.DT_FINI_ARRAYSZ)}
    return {facet: any(map(entries.get, both)) for facet, both in tags.items()}


class _Notes:
    """Takes down the events of one run, in the form that is compared once the run's directories are known."""

    def __init__(self, program: str, argv0: str) -> None:
        self.directories: tuple[str, ...] = ()
        """The default directories of glibc's ld.so; empty for another libc."""
        self._process: Process
        self._running, self._program = program, {program, argv0}
        self._loading: list[tuple[str, int]] = []
        self._calls: dict[str, dict[str, bool]] = {}
        self._modules: dict[int, str] = {}
        self._found: list[tuple[str, Callable[[], Item]]] = []
        self._take: dict[type[Any], Callable[[Any], None]] = {
            ProgramExecuted: self._executed,
            ev.LibraryLoad: self._load,
            ev.InitStarted: lambda e: self._called("init", e.name, 0),
            ev.FiniStarted: lambda e: self._called("fini", e.name, e.namespace),
            dl.OpenFailed: lambda e: self._loading.clear(),
            dl.Opened: lambda e: self._settle(),
            dl.Unloaded: lambda e: self._object("unloads", e.name, e.namespace),
            SymbolBound: self._bound,
            tls_events.TlsModuleAssigned: self._tls,
            tls_events.TlsStaticLayout: self._tls_layout,
        }

    def watch(self, process: Process) -> None:
        """The next run is that of `process`."""
        self._process = process

    def event(self, record: Record) -> None:
        """Take down an event, if it is one of those that are compared."""
        take = self._take.get(type(record.event))
        if take is not None:
            take(record.event)

    def _executed(self, e: ProgramExecuted) -> None:
        self._settle()
        self._running = self._process.config.program
        self._program |= {e.path, self._running}

    def facts(self) -> dict[str, list[Item]]:
        """Return all that was taken down, by facet;
        those that were watched are there even if nothing happened.
        """
        self._settle()
        result: dict[str, list[Item]] = {name: [] for name in self.watched()}
        for facet, item in self._found:
            result[facet].append(item())
        return result

    def watched(self) -> Iterable[str]:
        """Return the facets that events tell of."""
        return [name for name in FACETS if name not in ("output", "errors", "ending", "findings")]

    def said(self, text: bytes) -> dict[str, list[Item]]:
        """Return what the lines of LD_DEBUG tell of the first process: a child of fork writes there, too."""
        first = self._process.kernel.pid
        result: dict[str, list[Item]] = {facet: [] for facet in (*(facet for facet, _ in _SAID), "bindings")}
        for pid, raw in _LINE.findall(text):
            if int(pid) != first:
                continue
            line = raw.decode(errors="surrogateescape")
            if (bound := _BOUND.match(line)) is not None:
                by, _, file, namespace, symbol, version = bound.groups()
                if symbol != _DEBUG:
                    result["bindings"].append(self._binding(by, symbol, version or "", file, int(namespace)))
                continue
            for facet, pattern in _SAID:
                if (match := pattern.match(line)) is None:
                    continue
                number = int(match[2] or 0) if match.re.groups > 1 else 0  # "calling init" tells no namespace
                if facet == "unloads" or self._has(facet, match[1]):
                    result[facet].append(self._named(match[1], number))
        return result

    # -- one fact --------------------------------------------------------------------------------------------

    def _name(self, path: str) -> str:
        """An object as it is compared: the system's own by its name alone, since
        distributions move their directories.
        """
        folder, slash, name = path.rpartition("/")
        if not path or path in self._program:
            return "the program"
        return name if slash and (f"{folder}/" in self.directories or name.startswith("ld-linux")) else path

    def _named(self, path: str, namespace: int) -> Item:
        text = self._name(path) + (f" (namespace {namespace})" if namespace else "")
        return Item(text, text)

    def _called(self, facet: str, name: str, namespace: int) -> None:
        self._settle()
        if self._has(facet, name):
            self._object(facet, name, namespace)

    def _has(self, facet: str, path: str) -> bool:
        """Whether an object has constructors (or destructors) at all:
        releases tell of those without, or do not. One that cannot be read counts.
        """
        path = path or self._running
        if path not in self._calls:
            self._calls[path] = _functions(self._process.kernel.fs, path)
        return self._calls[path].get(facet, True)

    def _object(self, facet: str, name: str, namespace: int) -> None:
        self._found.append((facet, lambda: self._named(name, namespace)))

    def _load(self, e: ev.LibraryLoad) -> None:
        if e.rule not in ("program", "vdso") and not (
            e.name.rpartition("/")[2].startswith("ld-linux") and not e.namespace
        ):
            # Where the interpreter comes in the list is nobody's doing; the kernel mapped it.
            self._loading.append((e.name or e.path, e.namespace))

    def _settle(self) -> None:
        """What was loaded is there to stay: put it down in the order of the linker's list,
        where a filter's filtee comes first.

        What a failed dlopen had loaded never was in the list that a debugger sees.
        """
        rtld = self._process.rtld
        if rtld is not None:
            places = {
                (map_.display_name, space.index): place
                for space in rtld.namespaces
                for place, map_ in enumerate(space.maps)
            }
            self._loading.sort(key=lambda known: places.get(known, 0))
        for name, namespace in self._loading:
            self._object("loads", name, namespace)
        self._loading.clear()

    def _bound(self, e: SymbolBound) -> None:
        if e.symbol != _DEBUG:
            self._found.append(
                ("bindings", lambda: self._binding(e.by, e.symbol, e.version, e.file, e.namespace))
            )

    def _binding(self, by: str, symbol: str, version: str, file: str, namespace: int) -> Item:
        reference = f"{self._name(by)}: {symbol}{f'@{version}' if version else ''}"
        return Item(reference, self._named(file, namespace).text)

    def _tls(self, e: tls_events.TlsModuleAssigned) -> None:
        self._modules[e.module] = e.name
        below = [name for module, name in self._modules.items() if module < e.module]
        self._found.append(("tls", lambda: self._tls_item(e, below)))

    def _tls_item(self, e: tls_events.TlsModuleAssigned, below: list[str]) -> Item:
        """A TLS module. Its number is compared without the modules `below` it that are the system's own:
        how many those are depends on the system.
        """
        name, kind = self._name(e.name), "static" if e.offset else "dynamic"
        block = f"{e.size} bytes aligned to {e.align}, {kind}"
        number = e.module - sum("/" not in self._name(other) for other in below if other not in self._program)
        offset = f", offset -{e.offset:#x}" if e.offset else ""
        return Item(f"{name}: {block}, {number}", f"{name}: module {e.module}, {block}{offset}")

    def _tls_layout(self, e: tls_events.TlsStaticLayout) -> None:
        text = f"the program's static area: a surplus of {e.surplus} bytes"
        self._found.append(("tls", lambda: Item(text, text)))
