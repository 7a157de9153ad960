"""What the dynamic linker does differently from one release of glibc to another,
where no member or symbol shows it.

The linker asks a rule by its name and never which release it is; `glibc/release.py` says what each release
has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one release. The defaults are those of 2.28, from which `glibc/release.py` goes on."""

    release: str = "2.28"
    """The release's number, for messages only."""
    sort_by_depth: bool = False
    """Whether objects are sorted depth-first by default,
    which the tunable glibc.rtld.dynamic_sort can change then.
    """
    alignment_kept: bool = False
    """Whether an object is mapped at the alignment that its segments ask for, rather than at a page's, and
    judged by pages, not by that.
    """
    objects_in_table: bool = False
    """Whether dlopen enters objects in a table for _dl_find_object, whose memory is the program's."""
    frames_in_table: bool = False
    """Whether that table has a word more for each object."""
    closed_ids_reused: bool = False
    """Whether the TLS module ids of closed objects are given out again, each once, rather than only those of
    a dlopen that failed, and one to several objects of one dlopen.
    """
    closed_goes_first: bool = False
    """Whether dlclose finalises the closed object first of all, and a namespace's
    first object stays first in every sort.
    """
    dlopen_keeps_stack: bool = False
    """Whether dlopen refuses an object that needs an executable stack, rather than making the stacks so."""
    consistent_after_relocation: bool = False
    """Whether dlopen tells auditors and debuggers that its namespace is consistent
    only after relocation, and only if something came.
    """
    relocated_as_initialised: bool = False
    """Whether dlopen relocates objects in the order of the opened one's dependencies, rather than all that
    came after it in the namespace's list, sorted once more.
    """
    finalised_once: bool = False
    """Whether dlclose marks an object before its destructors run,
    so that an exit within them does not run them again.
    """
    delete_told_first: bool = False
    """Whether dlclose tells auditors that it deletes before the first la_objclose,
    rather than after the last la_objclose.
    """
    proxies_audited: bool = False
    """Whether auditors hear of the stand-in for ld.so in another namespace."""
    libc_relocated_first: bool = False
    """Whether the C library is relocated before everything else, at start-up and in a new namespace."""
    ld_so_relocated_before_malloc: bool = False
    """Whether ld.so's second relocation comes before it looks for the allocator, and a
    look for the program's `_r_debug` after that.
    """
    caller_by_find_object: bool = False
    """Whether dlopen asks _dl_find_object who has called it, which does not know auditors:
    to it they are the program.
    """
    tls_known_after_libc: bool = False
    """Whether with auditors the first thread hears of the program's TLS modules once libc is relocated,
    rather than everybody: what gets a place in the static area later is not in its DTV then.
    """
    own_ifuncs_last: bool = False
    """Whether all relocations that ask an object's own IFUNC resolvers come after the
    object's others, rather than IRELATIVE alone.
    """
    audit_tags: bool = False
    """Whether DT_AUDIT and DT_DEPAUDIT of a program name auditors, besides LD_AUDIT."""
    second_audit_interface: bool = False
    """Whether auditors speak version 2 of the interface: they hear of the vDSO, of slots that are bound at
    once, and of activity at the end, and an object's cookie is its map from the beginning.
    """
    empty_calls_told: bool = False
    """Whether LD_DEBUG tells of the constructors of objects that have none."""
    empty_ends_told: bool = False
    """Whether LD_DEBUG tells of the destructors of objects that have none;
    where not, it names a program that is finished.
    """
    idle_opens_untold: bool = False
    """Whether LD_DEBUG tells nothing of a dlopen, by a name that an object is known by,
    that changes nothing but the count.
    """
    generations_ahead: bool = False
    """Whether two generations of TLS modules are counted at start,
    so that a thread's first access brings its DTV up to date.
    """
    protected_data_copied: bool = True
    """Whether an object whose protected data the program has a copy of uses that copy,
    by a type class that GLOB_DAT relocations have of their own.
    """
    property_notes_read: bool = True
    """Whether the PT_NOTE segments of an object say what it needs of the CPU."""
    property_segment_read: bool = False
    """Whether PT_GNU_PROPERTY says it, before them."""
    kernel_asked: bool = True
    """Whether an object for a later kernel, by its ABI tag, is passed over."""
    relative_words_read: bool = False
    """Whether DT_RELR is read at all."""
    removed_bind_to_removed: bool = False
    """Whether code of an object whose destructors have run in a dlclose may
    still bind to another such object.
    """
    lost_versions_accepted: bool = False
    """Whether a reference to a version of a library that has none any more binds to it
    all the same, rather than ending the process.
    """
    named_version_first: bool = False
    """Whether a definition with the version asked for is taken before one of the same
    object without, rather than the first in the table.
    """
