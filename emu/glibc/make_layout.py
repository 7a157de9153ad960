"""Makes the layout table of a libc from its debugging information, and keeps it in the user's cache.

No start-up needs that, so it is imported late.

Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from emu.core import user_cache
from emu.core.errors import UnsupportedError
from emu.glibc.layout import table_text

if TYPE_CHECKING:
    from emu.glibc.debug_files import DebugSystem

_LIBC = "libc.so.6"
_DIRECTORIES = (
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
_OPTIONAL = {"r_debug_extended"}
"""Structures that not every release has."""


def libc_beside(system: DebugSystem, ld_so: str) -> str:
    """Return the guest path of the C library that is installed with an ld.so:
    in the same directory, else where distributions have it.

    Raises OSError where there is none.
    """
    own = os.path.dirname(system.files.realpath(ld_so))
    for directory in (own, *_DIRECTORIES):
        try:
            return system.files.realpath(os.path.join(directory, _LIBC))
        except OSError:
            continue
    raise FileNotFoundError(errno.ENOENT, "no libc.so.6 is there", own)


def make_table(system: DebugSystem, ld_so: str, release: str) -> dict[str, Any]:
    """Return the table for the libc of `ld_so` (a guest path), whose `release` is known.

    Raises UnsupportedError that names what is missing, OSError, ElfError.
    """
    from emu.elf.structures import read_structures
    from emu.glibc.debug_files import find_debug_file
    from emu.glibc.members import LD_SO, LIBC

    table: dict[str, Any] = {"version": release, "structures": {}}
    for path, wanted in ((ld_so, LD_SO), (libc_beside(system, ld_so), LIBC)):
        debug_file = find_debug_file(system, path)
        if debug_file is None:
            package = system.package() or "glibc's debug files"
            raise UnsupportedError(
                f"build of glibc {release}, for which a layout table must be made from debug files that are not here",
                path,
                f"install {package}, or set DEBUGINFOD_URLS with debuginfod-find there; nothing else is needed",
            )
        found = read_structures(debug_file, wanted)
        missing = set(wanted) - set(found) - _OPTIONAL
        if missing:
            raise UnsupportedError(f"debug file: no definition of {', '.join(sorted(missing))}", debug_file)
        table["structures"] |= found
    return table


def cache_path(build_id: str) -> str:
    """Return where the table of the ld.so with that build ID is kept."""
    return os.path.join(user_cache.folder("layouts"), f"{build_id}.json")


def keep(system: DebugSystem, ld_so: str, table: dict[str, Any]) -> str:
    """Keep a table in the user's cache and return where; it appears there whole or not at all.

    Raises OSError.
    """
    import tempfile

    from emu.elf.debug_file import build_id_of

    path = cache_path(build_id_of(system.host_path(ld_so)))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False) as file:
        file.write(table_text(table))
    os.replace(file.name, path)
    return path
