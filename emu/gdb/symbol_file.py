"""A symbol file for the stub page: gdb names the hosted functions as ld.so's, and walks through them.

It is an executable at the page's own address, with symbols and unwind information and no code. Source: gABI,
"Sections", "Symbol Table".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.elf import constants as c
from emu.process.hosted_functions import hosted_name

if TYPE_CHECKING:
    from emu.process import Process

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_HEADER = 64
_NOBITS = 8
_FUNCTION = 1 << 4 | 2
_SIZE = 3


def symbol_file(process: Process) -> bytes:
    """Return the file; empty for a process without hosted functions."""
    contract = process.contract
    if contract is None:
        return b""
    stubs = contract.stubs
    names = {address: hosted_name(process, address) for address in contract.pointer_stubs.values()}
    names |= {
        stubs.return_call - 1: "_dl_call_guest", stubs.return_plt - 1: "_dl_call_auditor",
        stubs.return_start - 1: "_dl_start_user", stubs.tls_get_addr: "__tls_get_addr",
        stubs.tlsdesc_return: "_dl_tlsdesc_return", stubs.tlsdesc_undefweak: "_dl_tlsdesc_undefweak",
        stubs.tlsdesc_dynamic: "_dl_tlsdesc_dynamic",
    }  # fmt: skip
    frames_at, frames = _unwind_information(process)
    strings, symbols = _symbols(names, stubs.end)
    titles = b"\0.text\0.eh_frame\0.symtab\0.strtab\0.shstrtab\0"
    body = bytearray(_HEADER)
    sections = [bytes(_SECTION.size)]

    def add(
        name: bytes,
        kind: int,
        flags: int,
        address: int,
        data: bytes,
        link: int = 0,
        info: int = 0,
        entry: int = 0,
    ) -> None:
        body.extend(bytes(-len(body) % 16))
        size = stubs.end - stubs.start if kind == _NOBITS else len(data)
        sections.append(
            _SECTION.pack(
                titles.index(b"\0" + name + b"\0") + 1,
                kind,
                flags,
                address,
                len(body),
                size,
                link,
                info,
                16 if not entry else 8,
                entry,
            )
        )
        body.extend(data)

    add(b".text", _NOBITS, 6, stubs.start, b"")
    add(b".eh_frame", 1, 2, frames_at, frames)
    add(b".symtab", 2, 0, 0, symbols, link=4, info=1, entry=_SYMBOL.size)
    add(b".strtab", 3, 0, 0, strings)
    add(b".shstrtab", 3, 0, 0, titles)
    table = len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, c.EM_X86_64, 1, 0, 0, table, 0, _HEADER, 0, 0, _SECTION.size,
        len(sections), 5,
    )  # fmt: skip
    body[:_HEADER] = header
    return bytes(body) + b"".join(sections)


def _symbols(names: dict[int, str], end: int) -> tuple[bytes, bytes]:
    """Return .strtab and .symtab for functions by their addresses, of which the last one reaches to `end`."""
    strings, symbols = bytearray(b"\0"), bytearray(_SYMBOL.pack(0, 0, 0, 0, 0, 0))
    ends = sorted([*names, end])
    for address in sorted(names):
        size = next(end for end in ends if end > address) - address
        symbols += _SYMBOL.pack(len(strings), _FUNCTION, 0, 1, address, size)
        strings += names[address].encode() + b"\0"
    return bytes(strings), bytes(symbols)


def _unwind_information(process: Process) -> tuple[int, bytes]:
    """Return where the stub page's .eh_frame lies, and its bytes, up to its last entry."""
    assert process.contract is not None
    arena, at = process.arena, process.contract.stubs.eh_frame_hdr
    (offset,) = struct.unpack("<i", arena.read(at + 4, 4))
    start = end = at + 4 + offset
    limit = process.contract.stubs.end
    while end + 4 <= limit:
        length = arena.read_u32(end)
        if length == 0 or end + 4 + length > limit:
            break
        end += 4 + length
    return start, arena.read(start, end - start) + bytes(4)
