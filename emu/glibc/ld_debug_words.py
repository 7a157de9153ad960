"""What a build of ld.so can say under LD_DEBUG, as its own file tells:
the options, and the lines that only some releases have.

The table of options lies in ld.so's read-only data, each with the bits of `_dl_debug_mask` that it sets;
a line that a release does not have is no string of its ld.so either.

Source: glibc elf/rtld.c:process_dl_debug; elf/dl-tls.c and elf/dl-load.c for the lines.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from emu.core.record import NamedTuple

_ENTRY = struct.Struct("<B10s41sH")
_FIRST = b"\x04libs\0"
_REFERENCE_TO = b"NODELETE due to reference to main program"
_PASSED_OVER = {"": "no such file", "class": "incompatible ELF class", "machine": "incompatible ELF machine"}
"""What is said of a file that is not taken, by why."""


class Option(NamedTuple):
    """An option of LD_DEBUG: its name, what `LD_DEBUG=help` says of it, the bits that it sets."""

    name: str
    about: str
    mask: int


class Words(NamedTuple):
    """What an ld.so can say: its options, what it tells of files that are not taken, the word before the
    program that has a library stay, its lines about TLS by the step they tell of.
    """

    options: tuple[Option, ...]
    passed_over: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    program_refers: str = "from"
    tls: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it


_TLS_FIRST = {
    "tcb": "TCB allocated: {tcb:#x}",
    "tcb freed": "TCB deallocating: {tcb:#x} (dealloc_tcb={value})",
}
_TLS = {
    "assign": "tls: assign modid {module} to {name} [{namespace}]",
    "release": "tls: release modid {module} from {name} [{namespace}]",
    "limit": "tls: initial modid limit set to {value}",
    "tcb": "tls: allocate TCB {tcb:#x}",
    "tcb ready": "tls: TLS initialized for TCB {tcb:#x}",
    "tcb freed": "tls: deallocate TCB {tcb:#x} (dealloc_tcb={value})",
    "static": "tls: modid {module} using static TLS; TCB={tcb:#x}",
    "lazy": "tls: modid {module} lazy allocation; TCB={tcb:#x}",
    "update": "tls: modid {module} update DTV to generation {value}; TCB={tcb:#x}",
    "block": "tls: allocate block {block:#x} for modid {module}; size={value}, TCB={tcb:#x}",
    "block stale": "tls: DTV update for TCB {tcb:#x}: modid {module} deallocated block {block:#x}",
    "block freed": "tls: deallocate block {block:#x} for modid {module}; TCB={tcb:#x}",
    "resized": "tls: DTV resized for TCB {tcb:#x}: oldsize={block}, newsize={value}",
}
_STYLES = ((b"TCB allocated: 0x", _TLS_FIRST), (b"tls: allocate TCB 0x", _TLS))
"""The lines about TLS, by a string that an ld.so with them has: seen in 2.43, and in 2.44."""


NO_WORDS = Words(())
"""What an ld.so can say that has no table of options."""


def words_of(segments: Iterable[bytes]) -> Words:
    """Return what an ld.so can say, given the contents of its read-only segments."""
    data = b"".join(segments)
    options = tuple(_options(data))
    tls = next((lines for sign, lines in _STYLES if sign in data), {})
    passed_over = {why: words for why, words in _PASSED_OVER.items() if f"    ({words})\n".encode() in data}
    return Words(options, passed_over, "to" if _REFERENCE_TO in data else "from", tls)


def _options(data: bytes) -> Iterable[Option]:
    place = data.find(_FIRST)
    while 0 <= place <= len(data) - _ENTRY.size:
        length, name, about, mask = _ENTRY.unpack_from(data, place)
        if not 0 < length < len(name) + 1 or b"\0" in name[:length]:
            return
        yield Option(
            name[:length].decode("ascii", "replace"),
            about.partition(b"\0")[0].decode("ascii", "replace"),
            mask,
        )
        place += _ENTRY.size
