"""The environment of a program with set-id bits, as ld.so leaves it.

Source: ld.so(8), "Secure-execution mode".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.process.images import start_info
from emu.rtld.secure import preloads, secured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.kernel.exec import Loaded
    from emu.kernel.fs.vfs import FileSystem
    from emu.machine.arena import Arena

_TRUSTED = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_REFUSED = "ERROR: ld.so: object '{}' from LD_PRELOAD cannot be preloaded (cannot open shared object file): ignored.\n"


def secured_environment(
    files: FileSystem, arena: Arena, loaded: Loaded, env: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Take from the guest's environment what such a program must not be told;
    return what is left for its linker.

    `say` is told of preloads that are refused.
    """
    left = secured(env)
    info = start_info(loaded)
    kept = []
    for at in range(info.envp, info.envp + 8 * len(loaded.envp), 8):
        pointer = arena.read_u64(at)
        name = os.fsdecode(arena.read_cstr(pointer).partition(b"=")[0])
        if name in left:
            kept.append(pointer)
            arena.write(pointer + len(os.fsencode(name)) + 1, os.fsencode(left[name]) + b"\0")
    for number, pointer in enumerate([*kept, 0]):
        arena.write_u64(info.envp + 8 * number, pointer)
    wanted = []
    for name, allowed in preloads(env.get("LD_PRELOAD", ""), lambda name: _is_set_id(files, name)):
        if allowed:
            wanted.append(name)
        else:
            say(_REFUSED.format(name))
    return left | {"LD_PRELOAD": ":".join(wanted)} if wanted else left


def _is_set_id(files: FileSystem, name: str) -> bool:
    """Whether a library in one of the system's directories has a set-user-ID bit."""
    for directory in _TRUSTED:
        try:
            stat = files.find(f"{directory}/{name}").stat()
        except OSError:
            continue
        return bool(stat.mode & abi.S_ISUID)
    return False
