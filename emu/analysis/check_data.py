"""What `emu check` reports, as data, and the rules that it knows.

Source: the manner is valgrind's: a message, the place, and the places that led to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from emu.analysis.frames import CallFrame

ERROR, WARNING, INFO = "error", "warning", "info"


class Rule(NamedTuple):
    """A rule: what it finds, how grave that is, and whether it is asked without being named."""

    about: str
    severity: str
    default: bool = True


RULES: dict[str, Rule] = {
    "unloaded-use": Rule("code or data of an unloaded DSO is used", ERROR),
    "tls-dtor-too-late": Rule(
        "a thread_local is built after its thread's destructors have run: its own never does", WARNING
    ),
    "tls-dtor-never-run": Rule("a thread ends without running its thread_local destructors", WARNING),
    "tls-dtor-unloaded": Rule("a thread_local destructor lies in a DSO that is unloaded before it runs", WARNING),
    "tls-used-after-dtor": Rule("a thread_local is used after its destructor ran", ERROR),
    "thread-left-objects": Rule("a thread ends with objects of a closed DSO still in its list", WARNING),
    "dso-pinned-at-exit": Rule("at exit, objects of threads still keep a closed DSO", WARNING),
    "dlclose-no-effect": Rule("the last dlclose of a DSO leaves it loaded, to the end", WARNING),
    "dlclose-kept-by-others": Rule("as dlclose-no-effect, but another open object needs it", INFO, default=False),
    "key-destructor-unloaded": Rule("a pthread key's destructor lies in an unloaded DSO", WARNING),
    "exit-handler-unloaded": Rule("a handler of exit or quick_exit lies in an unloaded DSO", WARNING),
    "signal-handler-unloaded": Rule("a signal handler lies in an unloaded DSO", WARNING),
    "odr-size-mismatch": Rule("two DSOs define one weak or unique object with different sizes", WARNING),
    "copy-size-mismatch": Rule("a COPY relocation and the object that it copies differ in size", WARNING),
    "init-order-cycle": Rule("DSOs with constructors need each other: no dependency defines their order", WARNING),
    "finalised-use": Rule("a destructor calls into, or (--watch) uses data of, a DSO already finalised", WARNING),
    "handle-closed-twice": Rule("dlclose of a handle that is not open", ERROR),
    "handle-leaked": Rule("a handle of dlopen is never closed (still reachable, as valgrind has it)", INFO, default=False),
}  # fmt: skip
"""A rule that finds the use itself, where it had warned before, raises the finding to an error."""


@dataclass(frozen=True, slots=True)
class Related:
    """A second place: `title` says what happened there (`unloaded by`, `registered by`, `opened by`, ...)."""

    title: str
    thread: int
    frames: tuple[CallFrame, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `severity` is error (it happened), warning (it will, or it leaks) or info; `objects` are the DSOs concerned, as named by the guest."""

    rule: str
    severity: str
    message: str
    thread: int
    frames: tuple[CallFrame, ...]
    related: tuple[Related, ...]
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one run. `exit_code` is the guest's (128+N when signal N killed it); `ended` tells of such an end in a line."""

    program: str
    exit_code: int
    ended: str
    findings: tuple[Finding, ...]
    suppressed: int
