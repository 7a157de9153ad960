"""What `emu explain` answers, as data.

`code` and `verdict` fields are for programs and stay; texts are for people and may change.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.analysis.data import Address, Proposal


@dataclass(frozen=True, slots=True)
class LoadedObject:
    """An object of the process: `name` is what the rest of the answer calls it, `rule` how it was found.

    `loaded` tells why it is here: program, start-up or dlopen.
    """

    name: str
    namespace: int
    path: str
    soname: str | None
    rule: str
    loaded: str
    in_global_scope: bool


@dataclass(frozen=True, slots=True)
class GoneObject:
    """An object that was unloaded: when (virtual nanoseconds) and by what;
    `bound` is what its references to the symbol were bound to.
    """

    name: str
    path: str
    time_ns: int
    by: str
    bound: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """A symbol of an object's dynamic symbol table that is defined there (or, in an
    executable, stands for its definition).

    `version_kind`: none (the object has no versions), base (the symbol has none), default (@@) or hidden (@).
    `offset` is its value: a link-time address, for TLS an offset in the object's TLS block. `address` is the
    run-time address, null for TLS. `source` is file:line.
    """

    object: str
    namespace: int
    version: str
    version_kind: str
    binding: str
    type: str
    visibility: str
    size: int
    offset: Address
    address: Address | None
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A symbol of the name that was looked at, and what the look-up said of it
    (`emu.rtld.verdict.Verdict`).
    """

    verdict: str
    definition: Definition


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One object of a scope.

    `outcome`: passed-over, won, interposed (it has a definition, but came too late), not-asked (too late, and
    would not have won), or repeated (it was in an earlier place).

    `verdict` is the reason, of the object or of its last candidate. `remark` has what the look-up does not
    see: that the object refers to the name itself, or has a definition that it does not export.
    """

    object: str
    namespace: int
    outcome: str
    verdict: str
    candidates: tuple[Candidate, ...]
    remark: str


@dataclass(frozen=True, slots=True)
class ScopeSearched:
    """One scope, in order.

    `kind`: symbolic, global, namespace (the global scope of a namespace of
    dlmopen), deepbind, next (RTLD_NEXT) or local.
    """

    kind: str
    owner: str
    text: str
    steps: tuple[SearchStep, ...]


@dataclass(frozen=True, slots=True)
class AppliedRule:
    """A rule that made the winner win."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Who refers.

    `kind`: call (PLT or TLS), data, copy, home (bound to the object's own symbol without a look-up) or dlsym.

    `version` and `file` are what it asks for, empty if nothing; `relocations` the types that it is used by.
    Of a dlsym that was called `handle` is what it was given (RTLD_DEFAULT, RTLD_NEXT, or the object that a
    handle is of), `asked` the name and `caller` the place of the call; all are empty for a question.
    """

    object: str
    namespace: int
    kind: str
    version: str
    file: str
    binding: str
    type: str
    visibility: str
    relocations: tuple[str, ...]
    handle: str = ""
    caller: str = ""
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Change(Proposal):
    """Something that would let the reference bind elsewhere: to `winner`, or to nothing.

    `object` is the object to change, load or remove.
    """

    winner: Definition | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The look-up of one reference, told again.

    `bound_to` is what was bound when it happened, where a binding was seen (object's name).

    `winner` is what the look-up gives now, null if nothing (a weak reference is then 0). `interposed` are the
    definitions that came too late. `then` is empty for a look-up that is asked now; else it says at which
    moment of the run it was made, and was told as things were.
    """

    reference: Reference
    scopes: tuple[ScopeSearched, ...]
    winner: Definition | None
    rules: tuple[AppliedRule, ...]
    interposed: tuple[Definition, ...]
    bound_to: tuple[str, ...]
    remarks: tuple[str, ...]
    changes: tuple[Change, ...]
    then: str = ""


@dataclass(frozen=True, slots=True)
class SlotAnswer:
    """A place that a relocation by the symbol filled.

    `version` is what it asks for; `kind`: plt, got, data, copy or tls.

    `offset` is its link-time address, `slot` its run-time address. `state`: bound, lazy (the first call will
    bind it), null, unrelocated or changed (it holds something else than what the look-up gives). `value` is
    its content, `target` that in terms of objects, functions and lines.
    """

    object: str
    namespace: int
    version: str
    relocation: str
    kind: str
    section: str
    offset: Address
    slot: Address
    state: str
    value: Address
    target: str


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """The whole answer. `symbol` is the name as the objects have it; `moment` when the question was asked.

    `failure` is what ended the linking or the run, if anything did. `slots` are those of all objects, or of
    the one that was asked about; `aliases` other names of the same definitions, which demangle alike and have
    references of their own. `kept` are the definitions that objects keep to themselves (hidden or local),
    which no look-up finds: each object that has one uses its own. It shows itself as `emu explain` prints it.
    """

    program: str
    symbol: str
    demangled: str
    moment: str
    failure: str
    objects: tuple[LoadedObject, ...]
    explanations: tuple[Explanation, ...]
    slots: tuple[SlotAnswer, ...]
    gone: tuple[GoneObject, ...]
    aliases: tuple[str, ...]
    kept: tuple[Definition, ...] = ()

    def __repr__(self) -> str:
        from emu.analysis.text import render

        return render(self).rstrip("\n")
