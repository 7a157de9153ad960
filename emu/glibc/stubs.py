"""The stub page: guest code by which the guest reaches hosted functions, and returns to them.

A hosted function's stub is a trap and `ret`: the machine traps, the runner changes what it must on the stack,
and the `ret` goes wherever the top of the stack then says: to the caller, or to a guest function that the
hosted one calls. The paths that must be fast are guest code throughout: `__tls_get_addr` and the TLS
descriptor functions trap only when the DTV must change.

The page is an ELF image with unwind information of its own, found through `_dl_find_object`, so that
exceptions and backtraces pass through hosted frames. Source: psABI 3.2.2, 3.7 and "ELF Handling for
Thread-Local Storage"; glibc sysdeps/x86_64/dl-tlsdesc.S.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.elf.builder import ElfBuilder
from emu.elf.eh_frame import FrameEntry
from emu.glibc.profile_code import profile_code

if TYPE_CHECKING:
    from collections.abc import Sequence

_RET = b"\xc3"
TRAP_SIZE = 3
"""Bytes of a hosted function's stub."""
_RA = 16


class Stubs(NamedTuple):
    """Guest addresses of the stubs. `traps` are free for hosted functions, by index."""

    start: int
    end: int
    eh_frame_hdr: int
    traps: tuple[int, ...]
    return_call: int
    return_plt: int
    return_start: int
    tls_get_addr: int
    tls_get_addr_slow: int
    tlsdesc_return: int
    tlsdesc_undefweak: int
    tlsdesc_dynamic: int
    tlsdesc_slow: int
    profile: int


def _cfa(offset: int) -> bytes:
    """CFA instructions: the CFA is rsp + `offset`, the return address lies right below it."""
    return bytes((0x0C, 7, offset, 0x80 | _RA, 1))


def _tls_get_addr(generation: int) -> bytes:
    """`__tls_get_addr(tls_index *rdi)`: the block is there and the DTV is of
    the newest generation, or trap.
    """
    return (
        b"\x64\x48\x8b\x14\x25\x08\x00\x00\x00"  # mov %fs:8, %rdx
        + b"\x48\xb8" + struct.pack("<Q", generation)  # movabs $generation, %rax
        + b"\x48\x8b\x00"  # mov (%rax), %rax
        + b"\x48\x39\x02"  # cmp %rax, (%rdx)
        + b"\x75\x17"  # jne slow
        + b"\x48\x8b\x07"  # mov (%rdi), %rax
        + b"\x48\xc1\xe0\x04"  # shl $4, %rax
        + b"\x48\x8b\x04\x02"  # mov (%rdx,%rax), %rax
        + b"\x48\x83\xf8\xff"  # cmp $-1, %rax
        + b"\x74\x05"  # je slow
        + b"\x48\x03\x47\x08"  # add 8(%rdi), %rax
        + b"\xc3"  # ret
        + b"\x90"  # slow:
    )  # fmt: skip


def _tlsdesc_dynamic() -> bytes:
    """Dynamic TLS descriptor: rax points at it and becomes the offset from the thread pointer;
    all else is kept.

    The argument is (module, offset, generation): a DTV at least that new serves.
    """
    return (
        b"\x57\x56"  # push %rdi; push %rsi
        b"\x48\x8b\x78\x08"  # mov 8(%rax), %rdi
        b"\x64\x48\x8b\x34\x25\x08\x00\x00\x00"  # mov %fs:8, %rsi
        b"\x4c\x89\x5c\x24\xf8"  # mov %r11, -8(%rsp)
        b"\x4c\x8b\x5f\x10"  # mov 16(%rdi), %r11
        b"\x4c\x3b\x1e"  # cmp (%rsi), %r11
        b"\x4c\x8b\x5c\x24\xf8"  # mov -8(%rsp), %r11
        b"\x77\x21"  # ja slow
        b"\x48\x8b\x07"  # mov (%rdi), %rax
        b"\x48\xc1\xe0\x04"  # shl $4, %rax
        b"\x48\x8b\x04\x06"  # mov (%rsi,%rax), %rax
        b"\x48\x83\xf8\xff"  # cmp $-1, %rax
        b"\x74\x10"  # je slow
        b"\x48\x03\x47\x08"  # add 8(%rdi), %rax
        b"\x64\x48\x2b\x04\x25\x00\x00\x00\x00"  # sub %fs:0, %rax
        b"\x5e\x5f\xc3"  # pop %rsi; pop %rdi; ret
        b"\x48\x89\xf8"  # slow: mov %rdi, %rax
        b"\x5e\x5f"  # pop %rsi; pop %rdi
    )


def build_stubs(base: int, traps: Sequence[str], generation: int, trap_code: bytes) -> tuple[bytes, Stubs]:
    """Return the image to be mapped read-execute at `base`, and the addresses in it.

    `traps` are the names of the hosted functions, `generation` is the guest address of `_dl_tls_generation`,
    `trap_code` what traps (see `emu.machine.features`).
    """
    builder = ElfBuilder(base=base, soname=b"emu-stubs", single_segment=True)
    trap = trap_code + _RET

    def add(code: bytes, instructions: bytes = b"", initial: bytes = _cfa(8), *, at: int = 0) -> int:
        address = builder.text(code)
        builder.frames.append(FrameEntry(address, len(code), instructions, initial))
        return address + at

    # The kernel jumps to "start": nobody called it. A PLT has pushed two words when it jumps to "resolve".
    popped = bytes((0x42, 0x0E, 8))  # the words are gone when the `ret` behind the trap is reached
    special = {"start": (bytes((0x07, _RA)), _cfa(8)), "resolve": (popped, _cfa(24))}
    trap_addresses = []
    for name in traps:
        instructions, initial = special.get(name, (b"", _cfa(8)))
        trap_addresses.append(add(trap, instructions, initial=initial))
    # A return stub is entered by `ret`, and unwinders look one byte before a return address: hence the nop.
    return_call = add(b"\x90" + trap, initial=_cfa(16), at=1)
    return_plt = add(b"\x90" + trap, initial=_cfa(32), at=1)
    return_start = add(b"\x90" + trap, bytes((0x07, _RA)), at=1)
    fast = _tls_get_addr(generation)
    tls_get_addr = add(fast + trap)
    slow_path = tls_get_addr + len(fast)
    tlsdesc_return = add(b"\x48\x8b\x40\x08\xc3")  # mov 8(%rax), %rax; ret
    # mov 8(%rax), %rax; sub %fs:0, %rax; ret
    tlsdesc_undefweak = add(b"\x48\x8b\x40\x08\x64\x48\x2b\x04\x25\x00\x00\x00\x00\xc3")
    dynamic = _tlsdesc_dynamic()
    pushed = bytes((0x41, 0x0E, 16, 0x41, 0x0E, 24, 0x02, len(dynamic) - 8, 0x0E, 8))
    tlsdesc_dynamic = add(dynamic + trap, pushed)
    profile = add(*profile_code(*(trap_addresses[traps.index(name)] for name in ("profile", "pltexit"))))
    image = builder.build()
    phdr_offset, phdr_count = 64, struct.unpack_from("<H", image, 56)[0]
    header = next(
        vaddr
        for kind, _, _, vaddr in (
            struct.unpack_from("<IIQQ", image, phdr_offset + 56 * i) for i in range(phdr_count)
        )
        if kind == 0x6474E550
    )
    stubs = Stubs(
        base, base + len(image), header, tuple(trap_addresses), return_call, return_plt, return_start, tls_get_addr, slow_path,
        tlsdesc_return, tlsdesc_undefweak, tlsdesc_dynamic, tlsdesc_dynamic + len(dynamic),
        profile,
    )  # fmt: skip
    return image, stubs
