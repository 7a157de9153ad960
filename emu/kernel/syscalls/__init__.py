"""The handlers of system calls, a file per subject, imported when one of its calls is made: see `find`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from emu.kernel.table import TABLE

if TYPE_CHECKING:
    from emu.kernel.run.call import SyscallEntry

FILES: dict[str, tuple[int, ...]] = {
    "attributes": (76, 77, *range(90, 96), 132, 235, 260, 261, 268, 280, 285),
    "copying": (40, 275, 276, 278, 326),
    "credentials": (102, *range(104, 109), *range(113, 121), 122, 123, 125, 126),
    "descriptors": (
        2, 3, 16, 22, 32, 33, *range(72, 76), 85, 162, 187, 221, 257, 277, 283, 284, 290, 292, 293, 306, 319, 436,
    ),
    "directories": (*range(78, 85), *range(86, 89), 133, 161, 217, 258, 259, *range(263, 267), 316),
    "execute": (59, 322),
    "futex": (202,),
    "groups": (109, 112, 121, 124),
    "identity": (39, 63, *range(97, 100), 110, 111, 135, 158, 160, 186, 302, 318),
    "inotify": (253, 254, 255, 294),
    "io": (0, 1, 8, *range(17, 21), 295, 296, 327, 328),
    "memory": (*range(9, 13), *range(25, 29), *range(149, 153), 325, *range(329, 332)),
    "messages": (*range(44, 48),),
    "mmsg": (299, 307),
    "mqueue": tuple(range(240, 246)),
    "msg": tuple(range(68, 72)),
    "numa": (237, 238, 239),
    "openat2": (437,),
    "pidfd": (424, 434, 438),
    "polling": (7, 23, 213, 232, 233, 270, 271, 281, 291, 441),
    "prctl": (157,),
    "priority": (140, 141, 314, 315),
    "process_vm": (310, 311),
    "ptrace": (101,),
    "scheduling": (24, *range(142, 149), 203, 204, 251, 252, 309),
    "seccomp": (317,),
    "sem": (*range(64, 67), 220),
    "shm": (*range(29, 32), 67),
    "signal": (13, 14, 15, 34, 62, *range(127, 132), 200, 234, 297),
    "signalfd": (282, 289),
    "socket_options": (54, 55),
    "sockets": (*range(41, 44), *range(48, 54), 288),
    "stat": (4, 5, 6, 21, 89, 137, 138, 262, 267, 269, 332, 439),
    "threads": (56, 57, 58, 60, 218, 231, 273, 274, 324, 334, 435),
    "time": (*range(35, 39), 96, 100, 201, *range(222, 231), 286, 287),
    "wait": (61, 247),
    "xattr": tuple(range(188, 200)),
}  # fmt: skip
"""The calls of each file."""
_FILE_OF = {number: name for name, numbers in FILES.items() for number in numbers}


def find(number: int) -> SyscallEntry | None:
    """Return the entry of a system call, None where there is none. Imports its file."""
    if number in _FILE_OF:
        import_module(f"{__name__}.{_FILE_OF[number]}")
    return TABLE.get(number)
