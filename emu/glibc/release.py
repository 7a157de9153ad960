"""The rules of each release of glibc, as data: what changed, in which release, in one sentence.

What leaves no trace is a rule here. What shows in a member (`Layout.has`) or in a symbol (`probe.find_own`)
is asked there, since distributions carry later changes back: the number of a release promises neither a
layout nor a symbol.

Source: glibc NEWS, bugs and commits, as each change names them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from emu.core.record import NamedTuple
from emu.rtld.rules import Rules

OLDEST, NEWEST = (2, 28), (2, 44)
"""The releases that emu knows the rules of; a later one is taken to have the newest's."""


class RuleChange(NamedTuple):
    """A rule that a release changed: the member of `Rules`, its value from then on, what it means,
    where glibc says so.

    A change that shows in the files themselves has no `rule`. `concerns` are the respects in which programs
    may differ by it (`analysis/diff_data.py: FACETS`), `sign` is a pattern of what such a difference shows.
    """

    release: tuple[int, int]
    rule: str
    value: bool
    what: str
    source: str
    concerns: tuple[str, ...] = ()
    sign: str = ""


CHANGES = (
    RuleChange((2, 32), "audit_tags", True, "DT_AUDIT and DT_DEPAUDIT name auditors", "bug 24943", ("output",)),
    RuleChange(
        (2, 32), "", True, "ld.so looks for the program's malloc, rather than bind to it as any object does", "bug 25486",
        ("bindings",), r"\b(calloc|free|malloc|realloc)@GLIBC_2\.2\.5",
    ),
    RuleChange(
        (2, 33), "", True, "directories named for the CPU's level under glibc-hwcaps are searched", "elf/dl-hwcaps.c",
        ("loads", "bindings"), r"/glibc-hwcaps/",
    ),
    RuleChange(
        (2, 34), "", True, "libpthread, libdl, librt and libutil are part of libc", "NEWS 2.34",
        ("loads", "bindings", "init", "fini"), r"\blib(pthread|dl|rt|util)\.so",
    ),
    RuleChange(
        (2, 35), "sort_by_depth", True, "objects are sorted depth-first for their constructors and destructors", "NEWS",
        ("init", "fini", "unloads"),
    ),
    RuleChange(
        (2, 35), "second_audit_interface", True, "auditors speak version 2 of their interface", "NEWS 2.35", ("output",),
    ),
    RuleChange(
        (2, 35), "alignment_kept", True, "objects are mapped at the alignment that their segments ask for", "bug 28676",
        ("errors",), "ELF load command",
    ),
    RuleChange(
        (2, 35), "", True, "a thread's first access to thread-local storage does not wait for a dlopen of another thread", "bug 28357", ("ending",),
        "deadlock",
    ),
    RuleChange(
        (2, 35), "relocated_as_initialised", True, "dlopen relocates objects in the order of the opened one's dependencies", "bug 17645",
        ("output",),
    ),
    RuleChange((2, 35), "closed_ids_reused", True, "the TLS module ids of closed objects are given out again", "bug 27135", ("output", "tls")),
    RuleChange((2, 35), "objects_in_table", True, "dlopen enters objects in a table, for which it calls malloc", "NEWS 2.35", ("output",)),
    RuleChange((2, 36), "relative_words_read", True, "objects with DT_RELR can be loaded", "NEWS 2.36", ("errors", "output"), "RELR"),
    RuleChange(
        (2, 36), "kernel_asked", False, "the oldest kernel that an object asks for in its ABI tag is not looked at", "b46d250656",
        ("errors", "loads", "output"), "cannot open shared object file",
    ),
    RuleChange(
        (2, 36), "protected_data_copied", False, "an object keeps its own protected data, whatever the program has a copy of", "7374c02b68",
        ("output", "bindings"),
    ),
    RuleChange((2, 36), "empty_calls_told", True, "LD_DEBUG tells of constructors where there are none", "seen in 2.36"),
    RuleChange(
        (2, 37), "", True, "subdirectories named tls, or for the platform and the hwcap, are searched no more", "NEWS 2.37",
        ("loads", "bindings"), r"/(tls|x86_64)/",
    ),
    RuleChange(
        (2, 38), "removed_bind_to_removed", True, "code of an object whose destructors have run may still bind to another such object", "bug 30425",
        ("errors", "ending"), "symbol lookup error",
    ),
    RuleChange(
        (2, 39), "closed_goes_first", True, "the destructor of the closed object runs first", "bug 30981",
        ("fini", "unloads"),
    ),
    RuleChange(
        (2, 39), "finalised_once", True, "an exit within a destructor that dlclose runs does not run that object's destructors again",
        "bug 30785", ("fini", "output", "ending"),
    ),
    RuleChange((2, 39), "empty_ends_told", True, "LD_DEBUG tells of destructors where there are none", "bug 30785"),
    RuleChange(
        (2, 39), "libc_relocated_first", True, "the C library is relocated before all other objects", "bug 31083",
        ("output",), r"\blibc\.so\.6\b",
    ),
    RuleChange(
        (2, 39), "", True, "ld.so's stand-ins in other namespaces have no constructors", "f6c8204fd7",
        ("init",), r"ld-linux.*namespace",
    ),
    RuleChange(
        (2, 41), "dlopen_keeps_stack", True, "dlopen refuses an object that needs an executable stack", "0ca8785a28",
        ("output", "errors"), "executable stack",
    ),
    RuleChange(
        (2, 41), "lost_versions_accepted", True, "a library without versions serves programs that were linked against one with them", "bdaf500353",
        ("output", "errors", "ending"),
    ),
    RuleChange(
        (2, 41), "named_version_first", True, "of a library's definitions one with the version asked for comes before one without a version",
        "bug 29190", ("bindings", "output"),
    ),
    RuleChange((2, 41), "consistent_after_relocation", True, "auditors hear LA_ACT_CONSISTENT of a dlopen after relocation", "bug 31986"),
    RuleChange((2, 41), "delete_told_first", True, "auditors hear LA_ACT_DELETE of a dlclose before the first la_objclose", "bug 32066"),
    RuleChange((2, 41), "ld_so_relocated_before_malloc", True, "ld.so is relocated again before it looks for malloc", "seen in 2.41"),
    RuleChange(
        (2, 41), "property_segment_read", True, "PT_GNU_PROPERTY says what an object needs of the CPU, before PT_NOTE", "seen in 2.41",
        ("errors", "ending"), "CPU ISA level|not mapped",
    ),
    RuleChange((2, 41), "proxies_audited", True, "auditors hear of ld.so in each namespace of dlmopen", "bug 31985"),
    RuleChange(
        (2, 41), "", True, "restartable sequences have a block of their own in the static TLS", "93d0bfbe8f",
        ("output", "errors"), "static TLS",
    ),
    RuleChange(
        (2, 43), "caller_by_find_object", True, "an auditor's dlopen opens in the program's namespace once the program has started", "seen in 2.43",
        ("output", "loads"),
    ),
    RuleChange((2, 43), "idle_opens_untold", True, "LD_DEBUG tells nothing of a dlopen that changes nothing", "seen in 2.43"),
    RuleChange(
        (2, 43), "frames_in_table", True, "the table that dlopen enters objects in has a word more for each", "seen in 2.43",
        ("output",), "malloc",
    ),
    RuleChange(
        (2, 44), "property_notes_read", False, "only PT_GNU_PROPERTY says what an object needs of the CPU", "seen in 2.44",
        ("errors", "ending"), "CPU ISA level|not mapped",
    ),
    RuleChange((2, 44), "generations_ahead", True, "the generations of TLS modules begin with 2", "seen in 2.44"),
    RuleChange(
        (2, 44), "tls_known_after_libc", True, "with auditors, TLS blocks that libraries get at start-up are not in the first thread's DTV",
        "seen in 2.44", ("output",),
    ),
    RuleChange(
        (2, 44), "own_ifuncs_last", True, "an object's own IFUNC resolvers are called after all its other relocations", "seen in 2.44",
        ("output", "errors"),
    ),
)  # fmt: skip


def number(release: str) -> tuple[int, int]:
    """Return a release such as "2.36" as numbers. Raises ValueError for what is none."""
    match = re.fullmatch(r"(\d+)\.(\d+)(?:\.\d+)*", release)
    if match is None:
        raise ValueError(f"no release of glibc: {release}")
    return int(match[1]), int(match[2])


def rules_of(release: str) -> Rules:
    """Return the rules of a release."""
    known = number(release)
    changed: dict[str, Any] = {c.rule: c.value for c in CHANGES if c.rule and c.release <= known}
    return replace(Rules(release), **changed)


def changed_between(one: str, other: str) -> list[RuleChange]:
    """Return what changed from the older to the newer of two releases, oldest change first."""
    older, newer = sorted((number(one), number(other)))
    return [change for change in CHANGES if older < change.release <= newer]


def since(rule: str) -> str:
    """Return in words from which release on a rule is what it is now, as in "with glibc 2.39 and later"."""
    return f"with glibc {_release_of(rule)} and later"


def otherwise(rule: str, value: bool) -> str:
    """Return in words which releases do not have that value of a rule, as in "with glibc before 2.39"."""
    changed = next(change.value for change in CHANGES if change.rule == rule)
    return f"with glibc before {_release_of(rule)}" if value == changed else since(rule)


def _release_of(rule: str) -> str:
    release = next(change.release for change in CHANGES if change.rule == rule)
    return f"{release[0]}.{release[1]}"
