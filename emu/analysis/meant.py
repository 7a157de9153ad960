"""What is meant to be interposed: definitions that take another's place by design,
and say nothing when they do.

Source: glibc manual, "Replacing malloc"; C++ [replacement.functions]; psABI 4.4.1 (R_X86_64_COPY); Itanium
C++ ABI 5.2 (vague linkage); libgcc's and compiler-rt's lists of entry points.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.elf import constants as c
from emu.rtld.link_map import LT_EXECUTABLE

if TYPE_CHECKING:
    from collections.abc import Container

    from emu.analysis.bindings import Use
    from emu.rtld.link_map import LinkMap

MALLOC = frozenset((
    b"malloc", b"calloc", b"realloc", b"memalign", b"aligned_alloc", b"posix_memalign", b"valloc", b"pvalloc", b"reallocarray", b"free", b"cfree",
    b"malloc_usable_size",
))  # fmt: skip
"""The C family: one provider for all of it."""
_NEW = re.compile(rb"_Z(nw|na)[jm]|_Zd[la]Pv")
ALLOCATION_FUNCTIONS = MALLOC | {
    b"_Znwm", b"_Znam", b"_ZnwmRKSt9nothrow_t", b"_ZnamRKSt9nothrow_t", b"_ZnwmSt11align_val_t", b"_ZnamSt11align_val_t",
    b"_ZdlPv", b"_ZdaPv", b"_ZdlPvm", b"_ZdaPvm", b"_ZdlPvSt11align_val_t", b"_ZdlPvmSt11align_val_t",
}  # fmt: skip
"""Those of both families that are met where they are hidden."""
_GNU_ALLOCATION = re.compile(
    rb"x(m|c|re|2re)alloc(array)?|x(char|nm|nre|2nre)alloc|xfree|xstrn?dup|xmemdup|xalloc_die|malloc_.*_hook"
)
"""Wrappers that end the program when memory is short: GNU libraries let a program have its own."""
_ENVIRONMENT = frozenset((b"getenv", b"setenv", b"unsetenv", b"putenv", b"clearenv"))
_LIBGCC = re.compile(
    rb"_Unwind_|__(de)?register_frame|__gcc_personality|__(add|sub|mul|neg|abs)v[sdt]i|__(u?(div|mod|divmod)|mul|ashl|ashr|lshr|cmp|ucmp|clz|ctz|ffs|parity|popcount"
    rb"|bswap)[sdt]i|__(float|fix)|__(add|sub|mul|div|neg|pow|eq|ne|lt|le|gt|ge|cmp|unord|extend|trunc)[sdtxhi][cfi]|__emutls|__cpu_(model|indicator_init|features2)"
    rb"|__(get|set)_fpu|__enable_execute_stack|__gnu_|__sfp_handle|__morestack|__splitstack|__generic_morestack"
)
_SANITIZER = re.compile(r"lib(a|t|l|m|ub|hwa)san\.so|libclang_rt\.|librtld_audit")
_SANITIZER_MARKS = (
    b"__asan_init",
    b"__tsan_init",
    b"__msan_init",
    b"__lsan_init",
    b"__ubsan_default_options",
)
_LIBC = re.compile(
    r"(libc|libm|libpthread|libdl|librt|libutil|libresolv|libanl|libmvec|libBrokenLocale|libnss_\w+|libthread_db|libnsl|ld-linux-x86-64)\.so\.[0-9]"
)
_CXX_RUNTIME = re.compile(r"(libstdc\+\+|libc\+\+|libc\+\+abi|libsupc\+\+|libcxxrt|libc\+\+_shared)\.so")
_UNWINDER = re.compile(r"(libgcc_s|libunwind)\.so")

PRELOADS = ("LD_PRELOAD", "/etc/ld.so.preload")
"""How an object was found that was preloaded."""
ALLOCATION, COPIES, INLINE, LIBC, RUNTIME, SAME, REPLACED, FILTER, WEAK, WRAPPER = (
    "malloc and operator new families", "copy relocations", "identical inline functions, templates, vtables and typeinfo",
    "libc's own aliases", "sanitizer, libgcc and C++ run-time symbols", "the same code in two objects", "parts of libc replaced by the program",
    "filters", "weak definitions", "wrappers of what they take over",
)  # fmt: skip


def is_allocation(name: bytes) -> bool:
    """Whether a name is of the malloc or operator new families."""
    return name in MALLOC or _NEW.match(name) is not None


def is_operator(name: bytes) -> bool:
    """Whether a name is one of the replaceable operator new and delete."""
    return _NEW.match(name) is not None


def is_libc(map_: LinkMap) -> bool:
    """Whether an object belongs to glibc."""
    return _LIBC.match(_soname(map_)) is not None


def is_cxx_runtime(map_: LinkMap) -> bool:
    """Whether an object is a C++ run-time library."""
    return _CXX_RUNTIME.match(_soname(map_)) is not None


def is_runtime(map_: LinkMap) -> bool:
    """Whether an object is a C++ run-time library or the unwinder beneath it."""
    return is_cxx_runtime(map_) or _UNWINDER.match(_soname(map_)) is not None


def is_standard(name: bytes) -> bool:
    """Whether a mangled name is of namespace std or the run-time library behind it."""
    return (
        re.match(
            rb"_Z(TI|TS|TV|TT|GV|GR|Z|N|NK|K)*(St|S[absiod]|N9__gnu_cxx|N10__cxxabiv1|9__gnu_cxx)|__cxa_|__gxx_|_ZT[ISV]P?K?D?[a-z]$",
            name,
        )
        is not None
    )


def why_meant(use: Use, exports: Container[bytes], copied: bool) -> str:
    """Return the kind of intention for which a use binds to another definition than its own;
    empty if there is none.

    `exports` are the names that the winner's object exports, `copied` tells that the winner is a copy
    (R_X86_64_COPY).
    """
    winner, own, name = use.winner, use.own, use.name
    if copied or (winner.map.type == LT_EXECUTABLE and not winner.map.symtab.entry(winner.number).defined):
        return COPIES
    if winner.type != own.type and c.STT_NOTYPE not in (winner.type, own.type):
        return ""
    if is_allocation(name) or _GNU_ALLOCATION.fullmatch(name):
        return ALLOCATION
    if is_libc(own.map) and is_libc(winner.map):
        return LIBC
    if _SANITIZER.match(_soname(winner.map)) or any(mark in exports for mark in _SANITIZER_MARKS):
        return RUNTIME
    if name.startswith(b"_Z") and {winner.bind, own.bind} <= {c.STB_WEAK, c.STB_GNU_UNIQUE}:
        return INLINE
    if (
        _LIBGCC.match(name)
        or _soname(winner.map).startswith("libgcc_s.so")
        or _soname(own.map).startswith("libgcc_s.so")
    ):
        return RUNTIME
    if is_standard(name):
        return RUNTIME
    if own.map.dynamic.get(c.DT_FILTER) is not None or own.map.dynamic.get(c.DT_AUXILIARY) is not None:
        return FILTER
    if own.bind in (c.STB_WEAK, c.STB_GNU_UNIQUE):
        return WEAK
    if name in _ENVIRONMENT or is_libc(own.map):
        return REPLACED if own.type == c.STT_FUNC or own.size == winner.size else ""
    return ""


def _soname(map_: LinkMap) -> str:
    return map_.soname or map_.display_name.rpartition("/")[2]
