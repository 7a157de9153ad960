"""Events of the run-time linker as text, a verb first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core import dl_events as ev

if TYPE_CHECKING:
    from collections.abc import Callable

_OUTCOMES = {
    "nodelete": "nothing happens, it is NODELETE",
    "not open": "an error, it is not open",
    "referenced": "still open",
    "start-up object": "it was there at start-up and stays",
    "later": "left to the close in progress",
    "collect": "collect",
}
_ROOTS = {
    "start-up": "there since start-up",
    "open-count": "open {} time{}",
    "nodelete": "NODELETE",
    "tls-dtors": "{} thread_local destructor{} pending",
}


def _in(namespace: int) -> str:
    return f" in namespace {namespace}" if namespace else ""


def _by(caller: str) -> str:
    return f" by {caller}" if caller else ""


def _requested(e: ev.OpenRequested) -> str:
    where = " in a new namespace" if e.namespace == -1 else _in(max(e.namespace, 0))
    return f"open {e.file or 'the program'} ({e.flags}){where}{_by(e.caller)}"


def _opened(e: ev.Opened) -> str:
    return f"opened {e.name}{_in(e.namespace)}: {'already open, ' if e.already else ''}count {e.opencount}"


def _failed(e: ev.OpenFailed) -> str:
    return f"failed to open {e.file}{_in(e.namespace)}: {e.text}"


def _first_call(e: ev.FirstCallFailed) -> str:
    return f"failed to bind the first call of {e.symbol} by {e.name}{_in(e.namespace)}: {e.text}"


def _needed(e: ev.ObjectNeeded) -> str:
    return f"look for {e.name}{_in(e.namespace)}: {'called for' if e.dynamic else 'needed'} by {e.by}"


def _created(e: ev.NamespaceCreated) -> str:
    return f"create namespace {e.namespace}"


def _joined(e: ev.AuditorJoined) -> str:
    functions = " ".join(e.functions) or "nothing"
    return f"auditor {e.name} in namespace {e.namespace} takes part: {functions}"


def _close(e: ev.CloseRequested) -> str:
    count = f"count {e.opencount_before} -> {e.opencount_after}"
    if e.outcome == "failed open":
        return f"undo the open of {e.name}{_in(e.namespace)}: {count}, collect"
    return f"close {e.name}{_in(e.namespace)}{_by(e.caller)}: {count}, {_OUTCOMES.get(e.outcome, e.outcome)}"


def _kept(e: ev.Kept) -> str:
    root = _ROOTS.get(e.root, e.root).format(e.number, "" if e.number == 1 else "s")
    steps = "".join(
        f" <-({edge})- {name}" for name, edge in zip(e.chain[-2::-1], e.edges[::-1], strict=False)
    )
    return f"keep {e.name}{_in(e.namespace)}{steps}: {root}"


def _unloading(e: ev.Unloading) -> str:
    return f"drop {e.name}{_in(e.namespace)}{'' if e.initialized else ', which was never initialized'}"


def _unloaded(e: ev.Unloaded) -> str:
    return f"unmap {e.name}{_in(e.namespace)} from {e.start:#x}-{e.end:#x}"


def _global(e: ev.GlobalScopeAdded) -> str:
    return f"add {e.name}{_in(e.namespace)} to the global scope"


def _scope(e: ev.ScopeSettled) -> str:
    return f"settle scope {e.number} of {e.name}{_in(e.namespace)}: {' '.join(e.members)}"


def _scope_removed(e: ev.ScopeRemoved) -> str:
    return f"remove the scope of {e.owner} from {e.name}{_in(e.namespace)}"


def _nodelete(e: ev.NodeleteSet) -> str:
    symbol = f" to {e.symbol}" if e.symbol else ""
    by = f" of {e.by}" if e.by else ""
    return f"mark {e.name}{_in(e.namespace)} NODELETE{', pending' if e.pending else ''}: {e.why}{by}{symbol}"


def _activated(e: ev.NodeleteActivated) -> str:
    return f"activate NODELETE of {e.name}{_in(e.namespace)}"


def _cleared(e: ev.NodeleteCleared) -> str:
    return f"clear NODELETE of {e.name}{_in(e.namespace)}: its last thread_local destructor has run"


def _dependency(e: ev.RelocationDependency) -> str:
    return f"depend: {e.by} on {e.name}{_in(e.namespace)}, bound to {e.symbol}"


def _generation(e: ev.TlsGeneration) -> str:
    return f"raise the TLS generation to {e.generation} ({e.why})"


DL_RENDERERS: dict[type[Any], Callable[[Any], str]] = {
    ev.OpenRequested: _requested,
    ev.Opened: _opened,
    ev.OpenFailed: _failed,
    ev.FirstCallFailed: _first_call,
    ev.ObjectNeeded: _needed,
    ev.NamespaceCreated: _created,
    ev.AuditorJoined: _joined,
    ev.CloseRequested: _close,
    ev.Kept: _kept,
    ev.Unloading: _unloading,
    ev.Unloaded: _unloaded,
    ev.GlobalScopeAdded: _global,
    ev.ScopeSettled: _scope,
    ev.ScopeRemoved: _scope_removed,
    ev.NodeleteSet: _nodelete,
    ev.NodeleteActivated: _activated,
    ev.NodeleteCleared: _cleared,
    ev.RelocationDependency: _dependency,
    ev.TlsGeneration: _generation,
}
