"""What `emu diff` answers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FACETS: dict[str, str] = {
    "output": "standard output, by lines",
    "errors": "standard error, by lines",
    "ending": "the exit code, and the words about a signal or an error",
    "loads": "the objects, in the order in which they are loaded",
    "bindings": "what each reference of an object binds to",
    "init": "the order of the constructors, by object",
    "fini": "the order of the destructors, by object",
    "unloads": "the objects that go before the end, in order",
    "tls": "the TLS modules, in the order of their making: number, size and alignment, static or dynamic",
    "findings": "what emu check finds",
}
"""What is compared, in the order of the report, and what it is."""

EMU: Final = "emu"
REAL: Final = "real"


@dataclass(frozen=True, slots=True)
class Side:
    """One run.

    `ldso` tells who linked (emu or real), `release` is glibc's (empty: unknown, or another libc).
    """

    name: str
    sysroot: str
    ldso: str
    release: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a difference is there.

    `tried`: with this rule changed, and nothing else, the first side does as the second.

    `release` is the first that has the rule (empty where none is concerned), `source` where glibc tells of
    it.
    """

    text: str
    release: str
    source: str
    tried: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference in one respect.

    `place` is its number from 0 in the first side's list, `before` what both have just before it.

    `left` and `right` are what the sides have there (empty: nothing any more).
    """

    facet: str
    place: int
    before: str
    left: str
    right: str
    explanations: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class Unseen:
    """A respect in which nothing can be said, and why."""

    facet: str
    why: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides by their numbers: where they first differ in each respect, and what was not compared.

    `same` are the respects in which they are equal.
    """

    left: int
    right: int
    differences: tuple[Difference, ...]
    same: tuple[str, ...]
    unseen: tuple[Unseen, ...]


@dataclass(frozen=True, slots=True)
class Diff:
    """The answer: the sides, and the first of them compared with each other."""

    program: str
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
