"""Mutation of what is no ELF file: ld.so.cache, schedules, suppressions."""

from __future__ import annotations

import struct
from random import Random

_WORDS = (
    b"[", b"]", b"{", b"}", b'"', b"'", b"[[", b"]]", b"=", b",", b":", b"\n", b"#", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9" * 30,
    b"9" * 5000, b"\\u0000", b"\\ud800", b"\xff", b"\x00", b"\x1b[2J", "\u202e".encode(), b"[" * 5000, b'{"a":' * 3000, b"*" * 400, b"1979-05-27",
    b"0x", b"1_0", b'"""', b"task", b"blocks", b"rule", b"object", b"suppression",
)  # fmt: skip
_NUMBERS = (0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 24, 48)


def mutate_text(data: bytes, random: Random) -> bytes:
    """Return a text with a few words put in, taken out, doubled or exchanged."""
    text = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(text) + 1)
        end = min(len(text), at + random.choice((0, 0, 1, 1, 4, 40)))
        match random.randrange(4):
            case 0 | 1:
                text[at:end] = random.choice(_WORDS)
            case 2:
                text[at:end] = text[at:end] * random.choice((0, 2, 3, 50))
            case _:
                text[at:end] = random.randbytes(end - at)
    return bytes(text)


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Return bytes with a few numbers changed, or cut."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0:
                del changed[at:]
            case 1:
                changed[at : at + 1] = random.randbytes(1)
            case 2:
                changed[at:at] = random.randbytes(random.choice((1, 4, 24)))
            case _:
                aligned = at & ~3
                if aligned + 4 <= len(changed):
                    value = random.choice((*_NUMBERS, random.getrandbits(32), len(data)))
                    struct.pack_into("<I", changed, aligned, value)
    return bytes(changed)


def seed_cache() -> list[bytes]:
    """Return caches of both layouts, one with an extension section for glibc-hwcaps."""
    names = (b"libz.so.1", b"libseed.so", b"libc.so.6", b"lib10.so", b"lib9.so")
    new = _new_cache(names)
    old_entries = struct.pack("<III", 3, 0, 12) * 2
    old = b"ld.so-1.7.0\0" + struct.pack("<I", 2) + old_entries
    old += bytes(-len(old) % 8)
    return [new, old + new, old + b"libz.so.1\0/lib/libz.so.1\0"]


def _new_cache(names: tuple[bytes, ...]) -> bytes:
    strings, entries = bytearray(), []
    start = 48 + 24 * len(names)
    for name in names:
        key = start + len(strings)
        strings += name + b"\0"
        value = start + len(strings)
        strings += b"/usr/lib/" + name + b"\0"
        entries.append(struct.pack("<iIIIQ", 0x0303, key, value, 0, 0))
    strings += bytes(-len(strings) % 4)
    hwcap = start + len(strings)
    strings += b"x86-64-v2\0\0\0"
    extension = start + len(strings)
    section = struct.pack("<IIIIII", 0xEAA42174, 1, 1, 0, extension + 24, 4) + struct.pack("<I", hwcap)
    entries[0] = struct.pack("<iIIIQ", 0x0303, start, start + 10, 0, 1 << 62)
    header = b"glibc-ld.so.cache1.1" + struct.pack(
        "<IIBBBBIIII", len(names), len(strings), 2, 0, 0, 0, extension, 0, 0, 0
    )
    return header + b"".join(entries) + bytes(strings) + section


def seed_schedule() -> list[bytes]:
    """Return schedules."""
    lines = [b'{"schedule":1}', *(b'{"task":%d,"blocks":%d}' % (1000 + n % 3, 20000 - n) for n in range(30))]
    return [b"\n".join(lines), b'{"schedule":1}\n{"task":1000,"blocks":5,"instruction":3}\n']


def seed_suppressions() -> list[bytes]:
    """Return files of suppressions."""
    return [
        b'[[suppression]]\nrule = "exit-handler-unloaded"\nobject = "libplugin*.so"\n\n[[suppression]]\nrule = "*"\n',
        b'[[suppression]]\nrule = "a*b*c*d*e*[!x-z]*"\nobject = "?[*"\n',
    ]
