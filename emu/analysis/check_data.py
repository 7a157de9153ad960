"""What `emu check` reports, as data, and the rules that it knows.

Source: the manner is valgrind's: a message, the place, and the places that led to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from emu.analysis.frames import CallFrame
from emu.core.record import NamedTuple

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
    "fork-loses-dtors": Rule("a child of fork that goes on has no destructors for other threads' thread_locals", INFO),
    "tls-used-after-dtor": Rule("a thread_local is used after its destructor ran", ERROR),
    "thread-left-objects": Rule("a thread ends with objects of a closed DSO still in its list", WARNING),
    "dso-pinned-at-exit": Rule("at exit, objects of threads still keep a closed DSO", WARNING),
    "dlclose-no-effect": Rule("the last dlclose of a DSO leaves it loaded, to the end", WARNING),
    "dlclose-kept-by-others": Rule("as dlclose-no-effect, but another open object needs it", INFO, default=False),
    "key-destructor-unloaded": Rule("a pthread key's destructor lies in an unloaded DSO", WARNING),
    "exit-handler-unloaded": Rule("a handler of exit or quick_exit lies in an unloaded DSO", WARNING),
    "signal-handler-unloaded": Rule("a signal handler lies in an unloaded DSO", WARNING),
    "odr-size-mismatch": Rule("two DSOs define one weak or unique object with different sizes", WARNING),
    "vtable-differs": Rule("a DSO uses another's vtable of a class that has other functions there", WARNING),
    "layout-differs": Rule("an inline function that serves a DSO was compiled for another layout of its class", WARNING),
    "copy-size-mismatch": Rule("a COPY relocation and the object that it copies differ in size", WARNING),
    "init-order-cycle": Rule("DSOs with constructors need each other: no dependency defines their order", WARNING),
    "finalised-use": Rule("a destructor calls into, or (--watch) uses data of, a DSO already finalised", WARNING),
    "static-registered-twice": Rule("a static object is registered for destruction twice, or destroyed twice", WARNING),
    "static-used-after-exit": Rule("a static object is used after exit's handlers have destroyed it", WARNING),
    "initialised-twice": Rule("a static initialiser is in two DSOs, and its second run ends the program", ERROR),
    "used-before-constructors": Rule("code or data of a DSO is used before the constructors of that DSO have run", WARNING),
    "name-taken": Rule("a name that a DSO uses for itself is taken over by another's definition of something else", WARNING),
    "loaded-twice": Rule("one library is loaded twice, from two files with the same content", WARNING),
    "weak-before-strong": Rule("a weak definition serves where a strong one comes later", WARNING),
    "allocator-split": Rule("memory of one allocator is, or will be, freed by another", WARNING),
    "copy-bypassed": Rule("a DSO is bound to the original of an object that everybody else uses through the program's copy", WARNING),
    "address-differs": Rule("a function has two addresses: the program's PLT entry, and a DSO's own that goes past it", WARNING),
    "unique-shared": Rule("two DSOs that do not see each other share a unique symbol", WARNING),
    "type-twice": Rule("a class has two typeinfo objects that count as two types", WARNING),
    "static-twice": Rule("a static variable of a header is two variables in two DSOs", WARNING),
    "key-deleted-by-another": Rule("a pthread key is deleted by a DSO that did not create it", ERROR),
    "key-left-each-time": Rule("a DSO leaves a pthread key behind each time it is unloaded", WARNING),
    "atfork-handler-unloaded": Rule("a handler of fork lies in an unloaded DSO", WARNING),
    "output-never-flushed": Rule("the libc of another namespace goes with output in its buffers", WARNING),
    "thread-runs-in-closed": Rule("a thread still runs in the code of a DSO that is unloaded", WARNING),
    "reopen-gives-old": Rule("dlopen gives the object that is there, but its name leads to another file by now", WARNING),
    "tls-misaligned": Rule("a TLS segment does not lie as its alignment says", WARNING),
    "ifunc-unrelocated": Rule("an IFUNC resolver uses a slot that is not relocated yet", ERROR),
    "handle-closed-twice": Rule("dlclose of a handle that is not open", ERROR),
    "died": Rule("the run ends by a signal that no error above explains", ERROR),
    "deadlock": Rule("every thread waits, and nothing can end that", ERROR),
    "not-loaded": Rule("ld.so refuses the program, or ends it since it cannot be linked", ERROR),
    "not-finished": Rule("the run could not be finished: something that emu does not support, or --timeout", ERROR),
    "handle-leaked": Rule("a handle of dlopen is never closed (still reachable, as valgrind has it)", INFO, default=False),
}  # fmt: skip
"""A rule that finds the use itself, where it had warned before, raises the finding to an error."""

REMEDIES: dict[str, str] = {
    "unloaded-use": "do not close {who} as long as anything of it is in use: a function, an object with its vtable, a text, a type",
    "tls-dtor-unloaded": "register it with the handle of {who} (its __dso_handle), as compilers do: it then keeps {who}",
    "key-destructor-unloaded": "call pthread_key_delete for it in a destructor function of {who}",
    "exit-handler-unloaded": "register it by atexit in code of {who} itself: dlclose then calls it",
    "signal-handler-unloaded": "put back the handler that was there before in a destructor function of {who}",
    "handle-closed-twice": "call dlclose once for each dlopen that succeeded",
    "dlclose-no-effect": "{why} tells every reason, and the shortest list of changes that lets it go",
}  # fmt: skip
"""What helps against findings of a rule that say nothing of it themselves; `{who}` is the first object
concerned, `{why}` the command that asks about it.
"""
END_RULES = ("died", "deadlock", "not-loaded", "not-finished")
"""Rules about how the run ended."""
SEVERITIES = (ERROR, WARNING, INFO)
CONFLICT_RULES = (
    "allocator-split", "copy-bypassed", "address-differs", "name-taken", "type-twice",
    "odr-size-mismatch", "layout-differs", "vtable-differs", "copy-size-mismatch", "static-twice",
    "loaded-twice",    "initialised-twice", "weak-before-strong", "unique-shared", *END_RULES,
)  # fmt: skip
"""The rules that `emu conflicts` asks, the most harmful first."""


@dataclass(frozen=True, slots=True)
class Related:
    """A second place: `title` says what happened there (`unloaded by`, `registered by`, `opened by`, ...)."""

    title: str
    thread: int
    frames: tuple[CallFrame, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    `severity` is error (it happened), warning (it will, or it leaks) or info;
    `objects` are the DSOs concerned, as named by the guest; `remedies` what would help, each by itself.
    """

    rule: str
    severity: str
    message: str
    thread: int
    frames: tuple[CallFrame, ...]
    related: tuple[Related, ...]
    objects: tuple[str, ...]
    remedies: tuple[str, ...] = ()
    process: int = 0
    """The process that it is of, 0 for the first."""


@dataclass(frozen=True, slots=True)
class OpenFailure:
    """A dlopen or dlmopen that failed: `file` as it was asked for, file and line of the call, ld.so's words;
    `command` tells why, and tries what helps.
    """

    file: str
    place: str
    error: str
    command: str


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """One more process of a run, while it ran one program. `parent` is the id of who made it.

    `exit_code` is as a shell has it, -1 for one that went on with another program, or was ended with the
    first process; `ended` tells of a signal.
    """

    process: int
    parent: int
    program: str
    exit_code: int
    ended: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one run.

    `exit_code` is the guest's (128+N when signal N killed it); `ended` tells of such an end in a line.

    `watch_may_tell`: there was something whose use only --watch sees, a destroyed thread_local or a finalised
    DSO. `failed_opens` tells of each dlopen by the program's own code that failed, which a program may
    expect: no findings. `processes` are those that the program started, as far as they were followed; their
    findings are among the others.
    """

    program: str
    exit_code: int
    ended: str
    findings: tuple[Finding, ...]
    suppressed: int
    watch_may_tell: bool = False
    failed_opens: tuple[OpenFailure, ...] = ()
    processes: tuple[ProcessEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class Interposed:
    """Names that are interposed as they should be: the kind of intention, how many, the first few."""

    kind: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """The conflicts of one run, the most harmful of each process first; `meant` is what is interposed by
    intention, in any of them.

    The other members are those of a Report.
    """

    program: str
    exit_code: int
    ended: str
    findings: tuple[Finding, ...]
    meant: tuple[Interposed, ...]
    suppressed: int
    processes: tuple[ProcessEnd, ...] = ()

    def without(self, shown: tuple[Finding, ...], suppressed: int) -> ConflictReport:
        """Return the report with the findings that are shown, and the number of those that are not."""
        return replace(self, findings=shown, suppressed=suppressed)
