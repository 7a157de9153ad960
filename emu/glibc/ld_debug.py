"""LD_DEBUG: the loader's events in ld.so's own words, for the guest's
standard error or a file of LD_DEBUG_OUTPUT.

Nothing here decides anything: the words stand where ld.so has them because the events are emitted where ld.so
speaks.

Source: glibc elf/rtld.c:process_dl_debug, elf/dl-printf.c, and every `_dl_debug_printf` in elf/.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from emu.core import dl_events as dl
from emu.core import events as ev
from emu.core import ldso_events as ld

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.events import EventBus, Record
    from emu.glibc.ld_debug_words import Words

LIBS, IMPCALLS, BINDINGS, SYMBOLS, VERSIONS, RELOC, FILES, STATISTICS, UNUSED, SCOPES, HELP, TLS = (
    1 << bit for bit in range(12)
)
"""The bits of `_dl_debug_mask`. Source: glibc sysdeps/generic/ldsodefs.h."""


def parse_mask(text: str, words: Words) -> tuple[int, list[str]]:
    """Return the mask that the value of LD_DEBUG asks for, and the words in it that are no options."""
    masks = {option.name: option.mask for option in words.options}
    asked = [word for word in text.replace(",", " ").replace(":", " ").split(" ") if word]
    mask = 0
    for word in asked:
        mask |= masks.get(word, 0)
    return mask, [word for word in asked if word not in masks]


def help_text(words: Words) -> str:
    """Return what LD_DEBUG=help prints."""
    lines = [f"  {option.name:<10}  {option.about}\n" for option in words.options]
    return (
        "Valid options for the LD_DEBUG environment variable are:\n\n"
        + "".join(lines)
        + "\nTo direct the debugging output into a file instead of standard output\n"
        "a filename can be specified using the LD_DEBUG_OUTPUT environment variable.\n"
    )


def output_path(env: Mapping[str, str], pid: int) -> str | None:
    """Return the file that LD_DEBUG_OUTPUT asks for, or None."""
    path = env.get("LD_DEBUG_OUTPUT")
    return f"{path}.{pid}" if path is not None else None


class LdDebug:
    """A sink of events that writes ld.so's lines.

    `program` is argv[0] and `program_name` what events call the program; `write` takes the bytes of whole
    lines, `words` what this ld.so can say. `names_finished` tells that a program whose destructors are called
    has its name.
    """

    def __init__(
        self,
        mask: int,
        program: str,
        program_name: str,
        pid: int,
        write: Callable[[bytes], None],
        words: Words,
    ) -> None:
        self.mask, self._program, self._program_name, self._write = mask, program, program_name, write
        self._words = words
        self.names_finished = False
        self._tag = f"{pid:10d}:\t"

    def attach(self, bus: EventBus, process: int) -> None:
        """Listen to what the mask asks for of one process (0: the first), and to nothing else."""
        categories = ["ldso"]
        for bits, category in (
            (LIBS, "libs"),
            (RELOC, "reloc"),
            (FILES | BINDINGS | SCOPES, "dl"),
            (IMPCALLS, "init"),
            (IMPCALLS, "fini"),
            (BINDINGS, "lookups"),
            (SYMBOLS, "symbols"),
        ):
            if self.mask & bits:
                categories.append(category)
        bus.subscribe(self, categories, process)

    def __call__(self, record: Record) -> None:
        """Take one event."""
        line = _LINES.get(type(record.event))
        if line is None:
            return
        bits, words = line
        if self.mask & bits:
            text = words(self, record.event)
            if text:
                lines = text[:-1].split("\n")
                self._write(os.fsencode("".join(f"{self._tag}{line}\n" for line in lines)))

    # -- names -----------------------------------------------------------------------------------------------

    def file(self, name: str) -> str:
        """Return an object's name as messages show it: argv[0] for the program."""
        return self._program if name == self._program_name else name

    def raw(self, name: str) -> str:
        """Return an object's l_name, which is empty for the program."""
        return "" if name == self._program_name else name

    # -- events ----------------------------------------------------------------------------------------------

    def needed(self, e: dl.ObjectNeeded) -> str:
        """An object is looked for."""
        verb = "dynamically loaded" if e.dynamic else "needed"
        return f"\nfile={e.name} [{e.namespace}];  {verb} by {self.file(e.by)} [{e.by_namespace}]\n"

    def search_path(self, e: ld.SearchPathUsed) -> str:
        """A list of directories."""
        origin = f" from file {e.origin or self._program}" if e.has_origin else ""
        return f" search path={':'.join(e.directories)}\t\t({e.kind}{origin})\n"

    def cache(self, e: ld.CacheSearched) -> str:
        """The cache and its answer."""
        return f" search cache={e.cache}\n" + (f"  trying file={e.path}\n" if e.path else "")

    def trying(self, e: ev.LibrarySearch) -> str:
        """A file in a directory; a path, and what the cache said, are tried without a word."""
        words = "" if e.found else self._words.passed_over.get(e.because, "")
        missing = f"    ({words})\n" if words else ""
        return missing if e.rule in ("path", "ld.so.cache") else f"  trying file={e.path}\n{missing}"

    def tls(self, e: ld.TlsStep) -> str:
        """A step of what is done about TLS, where this ld.so tells of it."""
        words = self._words.tls.get(e.step)
        if words is None:
            return ""
        return words.format_map(e._asdict() | {"name": self.file(e.name)}) + "\n"

    def finishing(self, e: ev.FiniStarted) -> str:
        """Destructors."""
        name = self.file(e.name) if self.names_finished else self.raw(e.name)
        return f"\ncalling fini: {name} [{e.namespace}]\n\n"

    def mapped(self, e: ld.ObjectMapped) -> str:
        """An object's place."""
        return (
            f"  dynamic: 0x{e.dynamic:016x}  base: 0x{e.base:016x}   size: 0x{e.size:016x}\n"
            f"    entry: 0x{e.entry:016x}  phdr: 0x{e.phdr:016x}  phnum:   {e.phnum:16d}\n\n"
        )

    def version(self, e: ld.VersionChecked) -> str:
        """A version to be found."""
        return (
            f"checking for version `{e.version}' in file {self.file(e.file)} [{e.namespace}] "
            f"required by file {self.file(e.by)} [{e.by_namespace}]\n"
        )

    def scope(self, e: ld.ScopeListed) -> str:
        """One scope, with the heading of its object before the first."""
        heading = f"object={self.file(e.name)} [{e.namespace}]\n" if e.first else ""
        members = "".join(f" {member}" for member in e.members)
        scope = f" scope {e.number}:{members}\n" if e.members else " no scope\n"
        return heading + scope + ("\n" if e.last else "")

    def nodelete(self, e: dl.NodeleteSet) -> str:
        """NODELETE, where ld.so speaks of it."""
        marking = f"marking {self.raw(e.name)} [{e.namespace}] as NODELETE"
        if e.why == "RTLD_NODELETE":
            return f"{marking}\n" if self.mask & FILES and not e.pending else ""
        if not self.mask & BINDINGS:
            return ""
        if e.why == "unique symbol":
            return f"{marking} due to unique symbol\n"
        if e.why == "reference":
            by = self.raw(e.by)
            origin = f"{by} [{e.by_namespace}]" if by else "main program"
            word = "from" if by else self._words.program_refers
            return f"{marking} due to reference {word} {origin}\n"
        return ""

    def opening(self, e: dl.Opened | ld.Reopened) -> str:
        """An open that succeeded."""
        return f"opening file={self.raw(e.name)} [{e.namespace}]; direct_opencount={e.opencount}\n\n"

    def closing(self, e: dl.CloseRequested) -> str:
        """A close that only counts down."""
        if e.outcome not in ("referenced", "start-up object", "later"):
            return ""
        return f"\nclosing file={self.raw(e.name)}; direct_opencount={e.opencount_after & 0xFFFFFFFF}\n"

    def dependency(self, e: dl.RelocationDependency) -> str:
        """A relocation dependency."""
        by = f"{self.file(e.by)} [{e.by_namespace}]"
        return f"\nfile={self.file(e.name)} [{e.namespace}];  needed by {by} (relocation dependency)\n\n"

    def bound(self, e: ld.SymbolBound) -> str:
        """A binding."""
        kind = "protected" if e.protected else "normal"
        version = f" [{e.version}]" if e.versioned else ""
        return (
            f"binding file {self.file(e.by)} [{e.by_namespace}] to {self.file(e.file)} [{e.namespace}]: "
            f"{kind} symbol `{e.symbol}'{version}\n"
        )

    def error(self, e: ld.ErrorSignalled) -> str:
        """An error."""
        end = "continued" if e.continued else "fatal"
        return f"{self.file(e.file)}: error: {e.occasion}: {e.text} ({end})\n"

    def startup(self, e: ld.StartupStatistics) -> str:
        """The statistics of start-up."""
        total = max(e.cycles, 1)
        return (
            f"\nruntime linker statistics:\n  total startup time in dynamic loader: {e.cycles} cycles\n"
            f"            time needed for relocation: {e.relocation_cycles} cycles ({_percent(e.relocation_cycles, total)}%)\n"
            f"                 number of relocations: {e.lookups}\n"
            f"      number of relocations from cache: {e.cached_lookups}\n"
            f"        number of relative relocations: {e.relative}\n"
            f"           time needed to load objects: {e.load_cycles} cycles ({_percent(e.load_cycles, total)}%)\n"
        )

    def final(self, e: ld.FinalStatistics) -> str:
        """The statistics of the run."""
        return (
            "\nruntime linker statistics:\n"
            f"           final number of relocations: {e.lookups}\n"
            f"final number of relocations from cache: {e.cached_lookups}\n"
        )


def _percent(part: int, total: int) -> str:
    tenths = 1000 * part // total
    whole = str(tenths // 10) if tenths >= 10 else ""
    return f"{whole}.{tenths % 10}"


_LINES: dict[type[Any], tuple[int, Callable[[LdDebug, Any], str]]] = {
    dl.ObjectNeeded: (FILES, LdDebug.needed),
    ld.SearchStarted: (LIBS, lambda self, e: f"find library={e.name} [{e.namespace}]; searching\n"),
    ld.SearchPathUsed: (LIBS, LdDebug.search_path),
    ld.CacheSearched: (LIBS, LdDebug.cache),
    ev.LibrarySearch: (LIBS, LdDebug.trying),
    ld.SearchEnded: (LIBS, lambda self, e: "\n"),
    ld.AuxiliaryRequested: (
        LIBS,
        lambda self, e: f"load auxiliary object={e.name} requested by file={self.file(e.by)}\n",
    ),
    ld.LinkMapStarted: (FILES, lambda self, e: f"file={e.name} [{e.namespace}];  generating link map\n"),
    ld.ObjectMapped: (FILES, LdDebug.mapped),
    ld.UnknownFlags: (
        FILES,
        lambda self, e: f"\nWARNING: Unsupported flag value(s) of 0x{e.bits:x} in DT_FLAGS_1.\n",
    ),
    ld.VersionChecked: (VERSIONS, LdDebug.version),
    ld.AuditorIgnored: (
        FILES,
        lambda self, e: (
            f"file={e.name} [{e.namespace}]; audit interface function la_version returned zero; ignored.\n"
        ),
    ),
    ld.InitialScopes: (SCOPES, lambda self, e: "\nInitial object scopes\n"),
    ld.ScopeListed: (SCOPES, LdDebug.scope),
    dl.GlobalScopeAdded: (
        SCOPES,
        lambda self, e: f"\nadd {self.raw(e.name)} [{e.namespace}] to global scope\n",
    ),
    ev.RelocationStarted: (
        RELOC,
        lambda self, e: f"\nrelocation processing: {self.file(e.name)}{' (lazy)' if e.lazy else ''}\n",
    ),
    ld.ObjectSearched: (
        SYMBOLS,
        lambda self, e: f"symbol={e.symbol};  lookup in file={self.file(e.file)} [{e.namespace}]\n",
    ),
    ld.SymbolBound: (BINDINGS, LdDebug.bound),
    dl.RelocationDependency: (FILES, LdDebug.dependency),
    dl.NodeleteSet: (FILES | BINDINGS, LdDebug.nodelete),
    dl.NodeleteActivated: (
        FILES,
        lambda self, e: f"activating NODELETE for {self.raw(e.name)} [{e.namespace}]\n",
    ),
    dl.Opened: (FILES, lambda self, e: "" if e.already else self.opening(e)),
    ld.Reopened: (FILES, LdDebug.opening),
    dl.CloseRequested: (FILES, LdDebug.closing),
    dl.Unloaded: (
        FILES,
        lambda self, e: f"\nfile={self.raw(e.name)} [{e.namespace}];  destroying link map\n",
    ),
    ld.PreinitStarted: (IMPCALLS, lambda self, e: f"\ncalling preinit: {self.file(e.name)}\n\n"),
    ev.InitStarted: (IMPCALLS, lambda self, e: f"\ncalling init: {self.file(e.name)}\n\n"),
    ev.FiniStarted: (IMPCALLS, LdDebug.finishing),
    ld.TlsStep: (TLS, LdDebug.tls),
    ld.ErrorSignalled: (~STATISTICS, LdDebug.error),
    ld.StartupStatistics: (STATISTICS, LdDebug.startup),
    ld.FinalStatistics: (STATISTICS, LdDebug.final),
}
"""Each event that ld.so has words for: the mask bits that ask for it, and the words."""
