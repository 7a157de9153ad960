"""The first stack of a program, laid out as Linux does.

Source: Linux fs/exec.c:copy_strings, fs/binfmt_elf.c:create_elf_tables; psABI 3.4.1 "Initial Stack and
Register State"; getauxval(3).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel

STACK_TOP = 0x7FFF_FFFF_F000
STACK_SIZE = 8 << 20
PLATFORM = b"x86_64\0"
(
    AT_NULL, AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE, AT_FLAGS, AT_ENTRY, AT_UID, AT_EUID, AT_GID,
    AT_EGID, AT_PLATFORM, AT_HWCAP, AT_CLKTCK, AT_SECURE, AT_RANDOM, AT_HWCAP2, AT_EXECFN, AT_SYSINFO_EHDR,
    AT_MINSIGSTKSZ,
) = (0, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 23, 25, 26, 31, 33, 51)  # fmt: skip
_MIN_SIGNAL_STACK = 1120
"""The largest signal frame here: FXSAVE image, ucontext, siginfo, red zone and alignment."""
_CLOCK_TICKS = 100


class ImageFacts(NamedTuple):
    """What the auxiliary vector says about the mapped images (addresses 0 where there is none)."""

    phdr: int
    phent: int
    phnum: int
    interp_base: int
    entry: int
    vdso: int


class Stack(NamedTuple):
    """Where things came to lie: the initial rsp, and the auxiliary vector as pairs."""

    pointer: int
    auxv: tuple[tuple[int, int], ...]


def build_stack(
    kernel: Kernel, facts: ImageFacts, filename: bytes, argv: list[bytes], envp: list[bytes]
) -> Stack:
    """Write strings, random bytes, auxiliary vector, envp, argv and argc below `STACK_TOP`, which must be
    mapped.
    """
    at = STACK_TOP - 8
    write = kernel.arena.write

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
    random = push(kernel.entropy.take(16))
    config = kernel.config
    auxv: list[tuple[int, int]] = []
    if facts.vdso:
        auxv.append((AT_SYSINFO_EHDR, facts.vdso))
    auxv += [
        (AT_MINSIGSTKSZ, _MIN_SIGNAL_STACK),
        (AT_HWCAP, config.hwcap),
        (AT_PAGESZ, 4096),
        (AT_CLKTCK, _CLOCK_TICKS),
        (AT_PHDR, facts.phdr),
        (AT_PHENT, facts.phent),
        (AT_PHNUM, facts.phnum),
        (AT_BASE, facts.interp_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, facts.entry),
        (AT_UID, config.uid),
        (AT_EUID, config.uid),
        (AT_GID, config.gid),
        (AT_EGID, config.gid),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_HWCAP2, 0),
        (AT_EXECFN, execfn),
        (AT_PLATFORM, platform),
        (AT_NULL, 0),
    ]
    words = [len(argv), *arg_addresses, 0, *env_addresses, 0]
    for pair in auxv:
        words += pair
    pointer = (at - 8 * len(words)) & -16
    write(pointer, struct.pack(f"<{len(words)}Q", *words))
    return Stack(pointer, tuple(auxv))
