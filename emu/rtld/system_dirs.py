"""What a distribution has compiled into its ld.so: where libraries lie, and what $LIB stands for.

Debian has `/lib/x86_64-linux-gnu/` first, Red Hat, Arch and upstream `/lib64/` and `/usr/lib64/`, a glibc of
one's own the folder that it was configured for. Source: glibc elf/dl-load.c:system_dirs,
elf/Makefile:trusted-dirs.st, elf/dl-hwcaps.c, elf/dl-cache.c.
"""

from __future__ import annotations

from emu.core.record import NamedTuple


def usable_hwcaps(level: int) -> tuple[str, ...]:
    """Return the glibc-hwcaps subdirectories that a CPU of a microarchitecture level
    can use, the preferred first.
    """
    return tuple(f"x86-64-v{number}" for number in range(level, 1, -1))


USABLE_HWCAPS = usable_hwcaps(2)
"""Those for the CPU that is emulated."""

_LEGACY_SUBDIRS = (
    "tls/x86_64/x86_64/", "tls/x86_64/", "tls/x86_64/", "tls/", "x86_64/x86_64/", "x86_64/", "x86_64/", "",
)  # fmt: skip
"""All choices from tls, the platform and the hwcap.

The last two have one name, so ld.so too tries the same file twice.
"""


class SystemDirs(NamedTuple):
    """One build's directories, each with a slash at its end, in the order of the search.

    `lib` is what $LIB stands for, `hwcaps` the names of the usable glibc-hwcaps subdirectories, the preferred
    first; `legacy` tells that the subdirectories of tls, the platform and the hwcap are searched too (until
    2.36). `cache` is the path of ld.so.cache.
    """

    directories: tuple[str, ...]
    lib: str
    hwcaps: tuple[str, ...]
    legacy: bool
    cache: str

    @property
    def subdirs(self) -> tuple[str, ...]:
        """What is tried in each directory of each list, in order: "" is the directory itself."""
        return (
            *(f"glibc-hwcaps/{name}/" for name in self.hwcaps),
            *(_LEGACY_SUBDIRS if self.legacy else ("",)),
        )
