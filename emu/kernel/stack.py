"""The first stack of a program, laid out as Linux does.

Source: Linux fs/exec.c:copy_strings, fs/binfmt_elf.c:create_elf_tables; psABI 3.4.1 "Initial Stack and
Register State"; getauxval(3).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.machine.features import Features

STACK_TOP = 0x7FFF_FFFF_F000
STACK_SIZE = 8 << 20
PLATFORM = b"x86_64\0"
(
    AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE, AT_FLAGS, AT_ENTRY, AT_UID, AT_EUID, AT_GID,
    AT_EGID, AT_PLATFORM, AT_HWCAP, AT_CLKTCK, AT_SECURE, AT_RANDOM, AT_HWCAP2, AT_EXECFN, AT_SYSINFO_EHDR,
    AT_MINSIGSTKSZ, AT_RSEQ_FEATURE_SIZE, AT_RSEQ_ALIGN,
) = (0, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 23, 25, 26, 31, 33, 51, 27, 28)  # fmt: skip
_CLOCK_TICKS = 100
_RSEQ_FEATURES, _RSEQ_ALIGN = 28, 32
"""struct rseq as of Linux 6.3, up to mm_cid."""


class AuxFacts(NamedTuple):
    """What the auxiliary vector says about the mapped images (addresses 0 where there is none)."""

    phdr: int
    phent: int
    phnum: int
    interp_base: int
    entry: int
    vdso: int
    random: bytes
    features: Features
    uid: int
    gid: int
    secure: bool = False


class Stack(NamedTuple):
    """Where things came to lie: the initial rsp, and the auxiliary vector as pairs."""

    pointer: int
    auxv: tuple[tuple[int, int], ...]


def build_stack(
    arena: Arena, facts: AuxFacts, filename: bytes, argv: list[bytes], envp: list[bytes]
) -> Stack:
    """Write strings, random bytes, auxiliary vector, envp, argv and argc below `STACK_TOP`, which must be
    mapped.
    """
    at = STACK_TOP - 8
    write = arena.write

    def push(data: bytes) -> int:
        nonlocal at
        at -= len(data)
        write(at, data)
        return at

    execfn = push(filename + b"\0")
    env_addresses = [push(text + b"\0") for text in reversed(envp)][::-1]
    arg_addresses = [push(text + b"\0") for text in reversed(argv)][::-1]
    at &= -16
    platform = push(PLATFORM)
    random = push(facts.random)
    auxv: list[tuple[int, int]] = []
    if facts.vdso:
        auxv.append((AT_SYSINFO_EHDR, facts.vdso))
    auxv += [
        (AT_MINSIGSTKSZ, facts.features.signal_stack),
        (AT_HWCAP, facts.features.hwcap),
        (AT_PAGESZ, 4096),
        (AT_CLKTCK, _CLOCK_TICKS),
        (AT_PHDR, facts.phdr),
        (AT_PHENT, facts.phent),
        (AT_PHNUM, facts.phnum),
        (AT_BASE, facts.interp_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, facts.entry),
        (AT_UID, facts.uid),
        (AT_EUID, facts.uid),
        (AT_GID, facts.gid),
        (AT_EGID, facts.gid),
        (AT_SECURE, int(facts.secure)),
        (AT_RANDOM, random),
        (AT_HWCAP2, facts.features.hwcap2),
        (AT_EXECFN, execfn),
        (AT_PLATFORM, platform),
        (AT_RSEQ_FEATURE_SIZE, _RSEQ_FEATURES),
        (AT_RSEQ_ALIGN, _RSEQ_ALIGN),
        (AT_NULL, 0),
    ]
    words = [len(argv), *arg_addresses, 0, *env_addresses, 0]
    for pair in auxv:
        words += pair
    pointer = (at - 8 * len(words)) & -16
    write(pointer, struct.pack(f"<{len(words)}Q", *words))
    return Stack(pointer, tuple(auxv))
