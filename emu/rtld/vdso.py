"""What ld.so takes from the vDSO: the functions that libc reads the clock with.

Source: glibc sysdeps/unix/sysv/linux/dl-vdso.h, dl-vdso-setup.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.elf.hash import sysv_hash
from emu.rtld.lookup import Query, lookup_symbol
from emu.rtld.version import Version, check_map_versions

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_FUNCTIONS = (
    b"__vdso_clock_gettime",
    b"__vdso_gettimeofday",
    b"__vdso_time",
    b"__vdso_getcpu",
    b"__vdso_clock_getres",
)
_GETRANDOM = b"__vdso_getrandom"
_VERSION = b"LINUX_2.6"


def bind_vdso(rtld: Rtld, vdso: LinkMap) -> None:
    """Look the functions up, in ld.so's order, and put their addresses into `rtld.vdso_functions`;
    one that is not there is left out.

    The emulated kernel has no vDSO function for random bytes; since 2.41 ld.so looks for it all the same.
    """
    check_map_versions(vdso, rtld.memory, lambda name: None)
    version = Version(_VERSION, sysv_hash(_VERSION), True, b"")
    for name in (*_FUNCTIONS, *([_GETRANDOM] if rtld.mirror.vdso_getrandom else [])):
        found = lookup_symbol(rtld, Query(name, vdso, version=version), [vdso.local_scope])
        if found is not None:
            rtld.vdso_functions[name] = found.address
