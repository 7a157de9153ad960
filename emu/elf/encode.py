"""Writing the tables of a dynamic object: strings, hash tables, versions, packed relocations.

The other direction of the readers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.hash import gnu_hash, sysv_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

_BLOOM_SHIFT = 6


class Strings:
    """A string table under construction; equal strings are stored once."""

    __slots__ = ("_offsets", "data")

    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self._offsets = {b"": 0}

    def add(self, text: bytes) -> int:
        """Return the offset of `text`, which is added when it is new."""
        offset = self._offsets.get(text)
        if offset is None:
            offset = self._offsets[text] = len(self.data)
            self.data += text + b"\0"
        return offset


def gnu_hash_buckets(count: int) -> int:
    """Return the number of buckets for `count` hashed symbols:
    about four symbols each, odd so that hashes spread.
    """
    return max(1, count // 4) | 1


def gnu_hash_order(names: Sequence[bytes]) -> list[int]:
    """Return the order, as indexes into `names`, in which a GNU hash table wants its symbols: by bucket."""
    buckets = gnu_hash_buckets(len(names))
    return sorted(range(len(names)), key=lambda index: gnu_hash(names[index]) % buckets)


def encode_gnu_hash(names: Sequence[bytes], symoffset: int) -> bytes:
    """Return a DT_GNU_HASH table for `names`, already in `gnu_hash_order`,
    the first being symbol `symoffset`.
    """
    nbuckets = gnu_hash_buckets(len(names))
    bloom = [0] * (1 << max(0, (len(names) // 8).bit_length()))
    buckets = [0] * nbuckets
    hashes = [gnu_hash(name) for name in names]
    chain: list[int] = []
    for at, value in enumerate(hashes):
        bloom[(value >> 6) % len(bloom)] |= 1 << (value & 63) | 1 << ((value >> _BLOOM_SHIFT) & 63)
        bucket = value % nbuckets
        buckets[bucket] = buckets[bucket] or symoffset + at
        last = at + 1 == len(hashes) or hashes[at + 1] % nbuckets != bucket
        chain.append(value | 1 if last else value & ~1)
    head = struct.pack("<IIII", nbuckets, symoffset, len(bloom), _BLOOM_SHIFT)
    return head + struct.pack(f"<{len(bloom)}Q{nbuckets}I{len(chain)}I", *bloom, *buckets, *chain)


def encode_sysv_hash(names: Sequence[bytes], first: int) -> bytes:
    """Return a DT_HASH table for `names`, the first being symbol `first`;
    symbols before it are counted but not found.
    """
    count = first + len(names)
    nbuckets = max(1, len(names) // 2) | 1
    buckets = [0] * nbuckets
    chain = [0] * count
    for index, name in enumerate(names, first):
        bucket = sysv_hash(name) % nbuckets
        chain[index], buckets[bucket] = buckets[bucket], index
    return struct.pack(f"<II{nbuckets}I{count}I", nbuckets, count, *buckets, *chain)


class DefinedVersion(NamedTuple):
    """A version to define: `ndx` in .gnu.version, its name, and the versions that it inherits."""

    ndx: int
    name: bytes
    flags: int = 0
    parents: tuple[bytes, ...] = ()


class NeededVersion(NamedTuple):
    """A version to need: `ndx` in .gnu.version and its name."""

    ndx: int
    name: bytes
    flags: int = 0


def encode_verdef(versions: Sequence[DefinedVersion], strings: Strings) -> bytes:
    """Return a DT_VERDEF table."""
    out = bytearray()
    for position, version in enumerate(versions):
        names = (version.name, *version.parents)
        size = 20 + 8 * len(names)
        step = 0 if position + 1 == len(versions) else size
        out += struct.pack(
            "<HHHHIII",
            c.VER_DEF_CURRENT,
            version.flags,
            version.ndx,
            len(names),
            sysv_hash(version.name),
            20,
            step,
        )
        for at, name in enumerate(names):
            out += struct.pack("<II", strings.add(name), 0 if at + 1 == len(names) else 8)
    return bytes(out)


def encode_verneed(needs: dict[bytes, list[NeededVersion]], strings: Strings) -> bytes:
    """Return a DT_VERNEED table; `needs` maps the SONAME of a needed object to the versions wanted of it."""
    out = bytearray()
    for position, (file, versions) in enumerate(needs.items()):
        step = 0 if position + 1 == len(needs) else 16 + 16 * len(versions)
        out += struct.pack("<HHIII", c.VER_NEED_CURRENT, len(versions), strings.add(file), 16, step)
        for at, version in enumerate(versions):
            aux_step = 0 if at + 1 == len(versions) else 16
            name = strings.add(version.name)
            out += struct.pack("<IHHII", sysv_hash(version.name), version.flags, version.ndx, name, aux_step)
    return bytes(out)


def encode_relr(addresses: Sequence[int]) -> bytes:
    """Return a DT_RELR table for word-aligned link-time addresses, in ascending order."""
    out = bytearray()
    todo = sorted(addresses)
    at = 0
    while at < len(todo):
        out += struct.pack("<Q", todo[at])
        position = todo[at] + 8
        at += 1
        while at < len(todo) and todo[at] < position + 63 * 8:
            bits = 0
            while at < len(todo) and todo[at] < position + 63 * 8:
                bits |= 1 << ((todo[at] - position) // 8)
                at += 1
            out += struct.pack("<Q", bits << 1 | 1)
            position += 63 * 8
    return bytes(out)


def encode_note(owner: bytes, type_: int, desc: bytes, unit: int = 4) -> bytes:
    """Return one note, padded to `unit` bytes (8 for property notes)."""
    head = struct.pack("<III", len(owner) + 1, len(desc), type_) + owner + b"\0"
    head += bytes(-len(head) % unit)
    return head + desc + bytes(-len(desc) % unit)


def encode_properties(properties: dict[int, int]) -> bytes:
    """Return an NT_GNU_PROPERTY_TYPE_0 note with 32-bit properties, in ascending
    order of their types as the ABI asks.
    """
    desc = b"".join(struct.pack("<IIII", type_, 4, value, 0) for type_, value in sorted(properties.items()))
    return encode_note(b"GNU", c.NT_GNU_PROPERTY_TYPE_0, desc, 8)
