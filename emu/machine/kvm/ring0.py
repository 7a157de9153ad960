"""The few pages that ring 0 needs: descriptors, the task state segment, a row of `hlt`, a stack.

There is no kernel in the guest. Each exception leads to a `hlt` of its own, which makes one exit; the frame
that the CPU has pushed tells where the guest was. The way back is `iretq` from a frame that the host writes.
A `syscall` finds nothing where LSTAR leads, or is no instruction at all (EFER.SCE is off): either way it
arrives as an exception too, and ring 3 never runs any code of ours.

Guest-physical memory: these pages and the page tables from 0, the arena from `ARENA_AT`.
Source: Intel SDM volume 3, 3.4.5 (descriptors), 4.5 (paging), 6.14 (exceptions in 64-bit mode), 7.7 (TSS).
"""

from __future__ import annotations

import mmap
import struct

from emu.machine.kvm.vm import Leaf, Vm, host_address

PRIVATE_SIZE = 64 << 20
ARENA_AT = 1 << 30
STUB = 0xFFFF_FE00_0000_0000
"""Guest address of ring 0's pages: in the upper half, where no program has anything."""
ROOT, _PDPT, _PD, _PT, _GDT, _IDT, _CODE, _STACK, FIRST_FREE = 0, 1, 2, 3, 4, 5, 6, 7, 8
TOP = STUB + 4096 * (_STACK + 1)
TOP_AT = 4096 * (_STACK + 1)
"""Where ring 0's stack ends: for the guest, and in the private pages."""
NO_CODE = STUB + 4096 * 15
"""LSTAR: nothing is there."""
VECTORS = STUB + 4096 * _CODE
_HLT_SIZE = 16
IRET, IRET_FLUSH = VECTORS + 0x900, VECTORS + 0x910
IRET_END = VECTORS + 0x940
WITH_ERROR = frozenset((8, 10, 11, 12, 13, 14, 17, 21))
"""Vectors whose exceptions push an error code."""
_FROM_RING3 = frozenset((3, 4))
_PRESENT, _WRITABLE, _USER = 1, 2, 4
DIRECTORY = _PRESENT | _WRITABLE | _USER
_SUPERVISOR = 0x63
_KERNEL_CS, _KERNEL_SS, _USER_CS, _USER_SS, _TR = 0x10, 0x18, 0x33, 0x2B, 0x40
_TSS_OFFSET = 0x100
_STAR, _LSTAR, _FMASK = 0xC0000081, 0xC0000082, 0xC0000084
_CR0 = 0x8005_0033
"""PG AM WP NE ET MP PE."""
_TSD, _PAE, _OSFXSR, _OSXMMEXCPT, _FSGSBASE, _OSXSAVE = 1 << 2, 1 << 5, 1 << 9, 1 << 10, 1 << 16, 1 << 18
_EFER = 0xD00
"""LME LMA NXE, and no SCE: `syscall` is no instruction, where the host can do that."""


class Ring0:
    """The private pages of one machine: `memory` is what they hold."""

    def __init__(self, vm: Vm, state_mask: int, leaves: list[Leaf]) -> None:
        self._vm = vm
        self.memory = mmap.mmap(-1, PRIVATE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
        self._tables()
        self._descriptors()
        self._code()
        self.attach()
        vm.show_cpuid(leaves)
        self._registers(state_mask)

    def attach(self) -> None:
        """Put the private pages into the machine."""
        self._vm.put_memory(0, 0, PRIVATE_SIZE, host_address(self.memory))

    def forget_shadows(self) -> None:
        """Let a host that shadows page tables forget all of them: their memory goes and comes back."""
        self._vm.put_memory(0, 0, 0, 0)
        self.attach()

    def _tables(self) -> None:
        for table, shift, entry in ((ROOT, 39, _PDPT), (_PDPT, 30, _PD), (_PD, 21, _PT)):
            self._entry(table, STUB >> shift & 511, entry << 12 | _SUPERVISOR)
        for page in (_GDT, _IDT, _CODE, _STACK):
            self._entry(_PT, page, page << 12 | _SUPERVISOR)

    def _entry(self, table: int, index: int, value: int) -> None:
        struct.pack_into("<Q", self.memory, 4096 * table + 8 * index, value)

    def _descriptors(self) -> None:
        tss = STUB + 4096 * _GDT + _TSS_OFFSET
        low = 0x67 | (tss & 0xFFFFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56
        entries = (
            0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF,
            0x00AF_FB00_0000_FFFF, 0, low, tss >> 32,
        )  # fmt: skip
        struct.pack_into("<10Q", self.memory, 4096 * _GDT, *entries)
        struct.pack_into("<IQ", self.memory, 4096 * _GDT + _TSS_OFFSET, 0, TOP)
        struct.pack_into("<H", self.memory, 4096 * _GDT + _TSS_OFFSET + 102, 0x68)
        for vector in range(32):
            handler = VECTORS + _HLT_SIZE * vector
            kind = 0x8E | (3 << 5 if vector in _FROM_RING3 else 0)
            gate = (handler & 0xFFFF, _KERNEL_CS, 0, kind, handler >> 16 & 0xFFFF, handler >> 32, 0)
            struct.pack_into("<HHBBHII", self.memory, 4096 * _IDT + 16 * vector, *gate)

    def _code(self) -> None:
        code = bytearray(b"\xf4" * 4096)  # hlt
        for at, text in (
            (IRET, b"\x48\xcf"),  # iretq
            (
                IRET_FLUSH,
                b"\x0f\x20\xd8\x0f\x22\xd8\x58\x48\xcf",
            ),  # mov %cr3, %rax; mov %rax, %cr3; pop %rax; iretq
        ):
            code[at - VECTORS : at - VECTORS + len(text)] = text
        self.memory[4096 * _CODE : 4096 * (_CODE + 1)] = bytes(code)

    def _registers(self, state_mask: int) -> None:
        state = self._vm.special_registers()
        for at, segment in (
            (0, _segment(_KERNEL_CS, 11, 0, long=1)),
            *((at, _segment(_USER_SS, 3, 3)) for at in (24, 48, 72, 96)),
            (120, _segment(_KERNEL_SS, 3, 0)),
            (144, _segment(_TR, 11, 0, base=STUB + 4096 * _GDT + _TSS_OFFSET, limit=0x67, system=0)),
            (168, _segment(0, 2, 0, limit=0, system=0, unusable=1)),
        ):
            state[at : at + len(segment)] = segment
        self.kernel_segments = bytes(state[0:24]), bytes(state[120:144])
        struct.pack_into("<QH", state, 192, STUB + 4096 * _GDT, 79)
        struct.pack_into("<QH", state, 208, STUB + 4096 * _IDT, 511)
        cr4 = _TSD | _PAE | _OSFXSR | _OSXMMEXCPT | _FSGSBASE | _OSXSAVE
        struct.pack_into("<QQQQQQ", state, 224, _CR0, 0, ROOT << 12, cr4, 0, _EFER)
        self._vm.load_special_registers(state)
        for number, value in ((_STAR, 0x23 << 48 | _KERNEL_CS << 32), (_LSTAR, NO_CODE), (_FMASK, 0x47700)):
            self._vm.set_msr(number, value)
        self._vm.set_xcr0(state_mask)


def _segment(
    selector: int,
    kind: int,
    ring: int,
    *,
    long: int = 0,
    base: int = 0,
    limit: int = 0xFFFFFFFF,
    system: int = 1,
    unusable: int = 0,
) -> bytes:
    """Return `struct kvm_segment`."""
    pages, big = system, 1 - long if system else 0
    fields = (base, limit, selector, kind, 1, ring, big, system, long, pages, 0, unusable, 0)
    return struct.pack("<QIHBBBBBBBBBB", *fields)
