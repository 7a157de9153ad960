"""How a program is found by its name.

Source: execvp(3).
"""

from __future__ import annotations

import os

from emu.core.errors import EXIT_LOADER, EXIT_NOT_EXECUTABLE, ProgramError

DEFAULT_PATH = "/bin:/usr/bin"
"""What execvp searches where PATH is not set (glibc posix/execvpe.c, confstr _CS_PATH)."""


def find_program(name: str, path: str, sysroot: str) -> str:
    """Return the guest path of `name`: itself if it has a slash, otherwise the first executable in `path`.

    Raises ProgramError: 127 when there is none, 126 when there are only files that may not be executed.
    Source: execvp(3); glibc posix/execvpe.c:__execvpe_common.
    """
    if "/" in name:
        return name
    if not name:
        raise ProgramError("'': command not found", EXIT_LOADER)
    denied = False
    for folder in path.split(":"):
        candidate = f"{folder.rstrip('/')}/{name}" if folder else f"./{name}"
        host = candidate if sysroot == "/" else os.path.join(sysroot, candidate.lstrip("/"))
        # Links of another root cannot be followed here; the process does it, by the guest's rules.
        if os.path.isfile(host) or (sysroot != "/" and os.path.islink(host)):
            if os.path.islink(host) or os.access(host, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise ProgramError(f"{name}: Permission denied", EXIT_NOT_EXECUTABLE)
    raise ProgramError(f"{name}: command not found{_here(name) if sysroot == '/' else ''}", EXIT_LOADER)


def _here(name: str) -> str:
    """Return a hint at a file of that name, or of nearly that one, in the current folder."""
    if os.path.isfile(name):
        return f" (the file here is ./{name})"
    from difflib import get_close_matches

    with os.scandir() as entries:
        files = [entry.name for entry in entries if entry.is_file() and os.access(entry, os.X_OK)]
    nearest = get_close_matches(name, files, 1)
    return f" (the nearest file here is ./{nearest[0]})" if nearest else ""
