"""What a look-up says of each object and definition that it looks at, for whoever wants to watch it.

A look-up that is watched is a question: it decides as any other does, but records nothing (no unique symbol,
no dependency).

Source: glibc elf/dl-lookup.c:do_lookup_x, check_match, for the reasons.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap


class Verdict(Enum):
    """One reason; those of a definition first, then those of a whole object, then
    those of the look-up as a whole.
    """

    UNDEFINED = "undefined"
    """The symbol has no value: the object only refers to it."""
    CANONICAL_PLT = "canonical-plt"
    """Undefined with a value, the executable's PLT entry:
    an address for pointers, but nothing that a call could end in.
    """
    WRONG_TYPE = "wrong-type"
    """A section or a file, not something to bind to."""
    OTHER_VERSION = "other-version"
    """It has another version than the reference asks for."""
    HIDDEN_VERSION = "hidden-version"
    """It is not the default version: only a reference that asks for it by name gets it."""
    LOST_VERSION = "lost-version"
    """The reference asks for a version of this very library, which has no versions at all:
    ld.so ends the process.
    """
    NOT_THE_ONLY_DEFAULT = "several-defaults"
    """The reference asks for no version, and the object has several default ones."""
    HIDDEN = "hidden"
    """STV_HIDDEN or STV_INTERNAL: nobody else's to bind to."""
    LOCAL = "local"
    """STB_LOCAL or an unknown binding."""
    WEAK_FOR_NOW = "weak-for-now"
    """Weak, with LD_DYNAMIC_WEAK: it will do only if there is no strong one."""
    SAME_VERSION = "same-version"
    """Accepted: its version is the one asked for."""
    NO_VERSIONS = "no-versions"
    """Accepted: its object has no versions at all."""
    UNVERSIONED = "unversioned"
    """Accepted: this one definition has no version,
    which will do where the version asked for must not exist as such.
    """
    BASE_VERSION = "base-version"
    """Accepted: no version is asked for, and it is the base definition or of the object's first version."""
    ONLY_DEFAULT = "only-default"
    """Accepted: no version is asked for, and it is the only default one."""

    BLOOM = "bloom-filter"
    """The object's Bloom filter excludes the name: its hash table is not even looked into."""
    NO_NAME = "no-such-name"
    """The object's hash table leads to no symbol of that name, or to none that will
    do (then each was told before).
    """
    NO_HASH_TABLE = "no-hash-table"
    """The object has no hash table: nothing can be found in it."""
    SKIPPED = "skipped"
    """The search begins behind this object (RTLD_NEXT)."""
    REMOVED = "removed"
    """The object is being unloaded."""
    EXECUTABLE = "executable"
    """The program itself, in the look-up for its own COPY relocation."""

    UNIQUE = "unique"
    """Found here, but the name is in the namespace's table of unique symbols: what the table says counts."""
    FIRST_UNIQUE = "first-unique"
    """The first definition of a unique symbol: it becomes everybody's."""
    PROTECTED = "protected"
    """The reference is by the object's own protected definition: it stays at home."""


Watch = Callable[["LinkMap", int, Verdict], None]
"""Is told of (object, index of the symbol in its table or -1, verdict), in the order of the search."""

Telling = tuple[int, Verdict]
"""The index of a symbol (-1: none) and what was said of it."""
