"""Events of the categories that only LD_DEBUG asks for,
as text of our own, a verb first. (ld.so's own words: `emu.glibc.ld_debug`.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core import ldso_events as ev

if TYPE_CHECKING:
    from collections.abc import Callable


def _in(namespace: int) -> str:
    return f" in namespace {namespace}" if namespace else ""


def _path(e: ev.SearchPathUsed) -> str:
    origin = f" of {e.origin or 'the program'}" if e.has_origin else ""
    return f"search {':'.join(e.directories)} ({e.kind}{origin})"


def _cache(e: ev.CacheSearched) -> str:
    return f"search {e.cache}: {e.path or 'nothing'}"


def _mapped(e: ev.ObjectMapped) -> str:
    return (
        f"place {e.name} at {e.base:#x}, {e.size} bytes: dynamic section {e.dynamic:#x}, entry {e.entry:#x}, "
        f"{e.phnum} program headers at {e.phdr:#x}"
    )


def _version(e: ev.VersionChecked) -> str:
    return f"check version {e.version} of {e.file}{_in(e.namespace)} for {e.by}"


def _scope(e: ev.ScopeListed) -> str:
    return f"list scope {e.number} of {e.name}{_in(e.namespace)}: {' '.join(e.members) or 'nothing'}"


def _error(e: ev.ErrorSignalled) -> str:
    return f"signal {e.occasion} of {e.file}: {e.text} ({'continued' if e.continued else 'fatal'})"


def _startup(e: ev.StartupStatistics) -> str:
    return (
        f"count at start-up {e.lookups} look-ups, {e.cached_lookups} more from the last result, {e.relative} relative relocations, "
        f"{e.cycles} cycles, {e.relocation_cycles} for relocation, {e.load_cycles} for loading"
    )


def _tls_step(e: ev.TlsStep) -> str:
    of = f" {e.name}{_in(e.namespace)}" if e.name else ""
    return f"step of TLS: {e.step}{of}, module {e.module}, thread {e.tcb:#x}, block {e.block:#x}, value {e.value}"


def _bound(e: ev.SymbolBound) -> str:
    symbol = f"{e.symbol}@{e.version}" if e.version else e.symbol
    return f"find {'protected ' if e.protected else ''}{symbol} for {e.by} in {e.file}{_in(e.namespace)}"


LDSO_RENDERERS: dict[type[Any], Callable[[Any], str]] = {
    ev.SearchStarted: lambda e: f"search for {e.name}{_in(e.namespace)}",
    ev.SearchPathUsed: _path,
    ev.CacheSearched: _cache,
    ev.SearchEnded: lambda e: f"end search for {e.name}",
    ev.AuxiliaryRequested: lambda e: f"ask for auxiliary {e.name}, by {e.by}",
    ev.LinkMapStarted: lambda e: f"make an object of {e.name}{_in(e.namespace)}",
    ev.ObjectMapped: _mapped,
    ev.UnknownFlags: lambda e: f"ignore flags of {e.name}: {e.bits:#x} in DT_FLAGS_1",
    ev.VersionChecked: _version,
    ev.AuditorIgnored: lambda e: f"auditor {e.name} in namespace {e.namespace} does not want to take part",
    ev.InitialScopes: lambda e: f"list the initial scopes of {e.objects} objects",
    ev.ScopeListed: _scope,
    ev.PreinitStarted: lambda e: f"begin preinit functions of {e.name}",
    ev.ErrorSignalled: _error,
    ev.StartupStatistics: _startup,
    ev.FinalStatistics: lambda e: f"count {e.lookups} look-ups, {e.cached_lookups} more from the last result",
    ev.Reopened: lambda e: f"open {e.name}{_in(e.namespace)} again, number {e.opencount}",
    ev.TlsStep: _tls_step,
    ev.ObjectSearched: lambda e: f"search {e.symbol} in {e.file}{_in(e.namespace)}",
    ev.SymbolBound: _bound,
}
