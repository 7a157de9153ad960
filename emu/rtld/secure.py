"""Secure mode (AT_SECURE): what ld.so passes over where a program has more rights
than the user who started it.

Source: ld.so(8), "Secure-execution mode"; getauxval(3); glibc sysdeps/generic/unsecvars.h; the words and the
variables were compared with 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_UNSECURE = frozenset(
    "GCONV_PATH GETCONF_DIR HOSTALIASES LD_AUDIT LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK LD_HWCAP_MASK LD_LIBRARY_PATH LD_ORIGIN_PATH LD_PRELOAD"
    " LD_PREFER_MAP_32BIT_EXEC LD_PROFILE LD_SHOW_AUXV LD_USE_LOAD_BIAS LOCALDOMAIN LOCPATH MALLOC_ARENA_MAX MALLOC_ARENA_TEST MALLOC_CHECK_"
    " MALLOC_MMAP_MAX_ MALLOC_MMAP_THRESHOLD_ MALLOC_PERTURB_ MALLOC_TOP_PAD_ MALLOC_TRACE MALLOC_TRIM_THRESHOLD_ NIS_PATH NLSPATH RESOLV_HOST_CONF"
    " RES_OPTIONS TMPDIR TZDIR".split()
)
_TUNABLES = "GLIBC_TUNABLES"


def secured(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what a user must not say to a program with more rights;
    tunables lose their values.
    """
    return {name: "" if name == _TUNABLES else value for name, value in env.items() if name not in _UNSECURE}


def preloads(value: str, is_set_id: Callable[[str], bool]) -> Iterator[tuple[str, bool]]:
    """Yield the names of LD_PRELOAD that count at all (without a slash), and whether each may be loaded.

    Only a set-user-ID file in one of the system's directories may: `is_set_id` tells of one.
    """
    for name in value.replace(":", " ").split():
        if "/" not in name:
            yield name, is_set_id(name)
