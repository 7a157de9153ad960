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
    hint = f" (the file here is ./{name})" if sysroot == "/" and os.path.isfile(name) else ""
    raise ProgramError(f"{name}: command not found{hint}", EXIT_LOADER)
