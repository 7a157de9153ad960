"""What the guest finds of the CPU: what KVM can show, less what would not be the
same everywhere or what a context does not keep.

Where CPUID cannot be answered by us (the host runs ring 3 without a virtual CPUID), the guest finds the
host's CPU; `probe` sees that by asking from ring 3, and what is told elsewhere (AT_HWCAP, /proc/cpuinfo,
libraries by level) then is what the guest finds.

Source: Intel SDM volume 2, CPUID; volume 1, 13.3 (XSAVE); x86-64 psABI, "Microarchitecture levels".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.core.record import NamedTuple
from emu.machine.arena import HIGH_END, PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, physical
from emu.machine.features import Features
from emu.machine.kvm.vm import Leaf

if TYPE_CHECKING:
    from emu.machine.kvm.cpu import KvmCpu

_STATE = 0xE7
"""x87, SSE, AVX and what AVX-512 adds."""
_STATE_OF_LEVEL = {1: 0x3, 2: 0x3, 3: 0x7, 4: _STATE}
_1_HIDDEN = sum(1 << bit for bit in (3, 5, 6, 15, 21, 24, 30, 31))
"""MONITOR, VMX, SMX, PDCM, x2APIC, TSC deadline, RDRAND, hypervisor."""
_OSXSAVE = 1 << 27
_7_HIDDEN_EBX = sum(1 << bit for bit in (2, 4, 11, 12, 15, 18, 25))
"""SGX, HLE, RTM, RDT, RDSEED, PT."""
_7_HIDDEN_ECX = sum(1 << bit for bit in (3, 4, 5, 7, 16, 22, 30))
"""PKU, WAITPKG, CET, 5-level paging, RDPID, SGX launch."""
_7_HIDDEN_EDX = sum(1 << bit for bit in (18, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31))
"""PCONFIG, CET, AMX, and speculation control, which is the kernel's."""
_AVX_1 = sum(1 << bit for bit in (12, 28, 29))
"""FMA, AVX, F16C."""
_AVX2 = 1 << 5
_VECTOR_7_EBX = _AVX2 | sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31))
_512_7_EBX = sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31))
_512_7_ECX = sum(1 << bit for bit in (1, 6, 11, 12, 14))
_256_7_ECX = (1 << 9) | (1 << 10)
"""VAES, VPCLMULQDQ."""
_512_7_EDX = sum(1 << bit for bit in (2, 3, 8, 23))
_V2 = sum(1 << bit for bit in (0, 9, 13, 19, 20, 23))
_V3_1 = sum(1 << bit for bit in (12, 22, 27, 28, 29))
_V3_7 = 1 << 3 | 1 << 5 | 1 << 8
_V4_7 = sum(1 << bit for bit in (16, 17, 28, 30, 31))
_FSGSBASE = 1
_HWCAP2_FSGSBASE = 2
_HYPERVISORS = range(0x4000_0000, 0x4000_0100)
_PAGE = HIGH_END - 2 * PAGE_SIZE
_ASK = bytes.fromhex(
    "8b07 8b4f04 0fa2 8907 895f04 894f08 89570c 4883c710 ffce 75e6 b801000000 f30fbdc0 8907 0f0b"
)
"""mov (%rdi), %eax; mov 4(%rdi), %ecx; cpuid; store all four; add $16, %rdi; dec %esi; jnz;
mov $1, %eax; lzcnt %eax, %eax; mov %eax, (%rdi); ud2
"""
_COUNTS_LEADING = 31
"""What LZCNT makes of 1; a CPU that has none takes it for BSR, which makes 0."""
_LZCNT = 1 << 5
_TABLE = _PAGE + 0x100
_ASKED = (
    (0, 0),
    (1, 0),
    (7, 0),
    (13, 0),
    (13, 1),
    (0x8000_0001, 0),
    (0x8000_0002, 0),
    (0x8000_0003, 0),
    (0x8000_0004, 0),
)
_NONE = (0, 0, 0, 0)


class Shown(NamedTuple):
    """What CPUID answers: `leaves` by function and index.

    `state_mask`, `state_size` are XCR0 and the bytes of its states.

    `obeyed` tells that the guest finds what we chose, not the host's CPU. `has_lzcnt` tells that LZCNT is
    there whatever CPUID says: some hosts do not show it to guests, but nothing can take the instruction away.
    """

    leaves: list[Leaf]
    state_mask: int
    state_size: int
    obeyed: bool = True
    has_lzcnt: bool = False

    def leaf(self, function: int, index: int = 0) -> tuple[int, int, int, int]:
        """Return the four registers that a leaf gives."""
        for leaf in self.leaves:
            if leaf.function == function and leaf.subleaf == index:
                return leaf.eax, leaf.ebx, leaf.ecx, leaf.edx
        return _NONE


def shown_for(supported: list[Leaf], level: int | None) -> Shown:
    """Return what is to be shown of what KVM supports, for a microarchitecture level (None: all of it)."""
    state = next((leaf.eax for leaf in supported if leaf.function == 13 and leaf.subleaf == 0), 3)
    state &= _STATE if level is None else _STATE_OF_LEVEL[level]
    leaves = [_shown(leaf, level or 4, state) for leaf in supported]
    size = 576
    for leaf in leaves:
        if leaf.function == 13 and leaf.subleaf >= 2 and state >> leaf.subleaf & 1:
            size = max(size, leaf.eax + leaf.ebx)
    return Shown(leaves, state, size)


def _shown(leaf: Leaf, level: int, state: int) -> Leaf:
    function, index, eax, ebx, ecx, edx = leaf
    if function in _HYPERVISORS:
        return Leaf(function, index, 0, 0, 0, 0)
    if function == 1:
        ecx = ecx & ~_1_HIDDEN | _OSXSAVE
        ebx = ebx & 0xFFFF | 1 << 16
        if level < 3:
            ecx &= ~(_AVX_1 | 1 << 22)
    elif function == 7 and index == 0:
        ebx, ecx, edx = ebx & ~_7_HIDDEN_EBX, ecx & ~_7_HIDDEN_ECX, edx & ~_7_HIDDEN_EDX
        if level < 4:
            ebx, ecx, edx = ebx & ~_512_7_EBX, ecx & ~_512_7_ECX, edx & ~_512_7_EDX
        if level < 3:
            ebx, ecx = ebx & ~(_VECTOR_7_EBX | 1 << 3 | 1 << 8), ecx & ~_256_7_ECX
    elif function == 7 and level < 4:
        eax = ebx = ecx = edx = 0
    elif function == 13 and index == 0:
        eax, edx = state, 0
    elif function == 13 and index == 1:
        eax, ecx, edx = eax & 3, 0, 0
    elif function == 13 and not state >> index & 1:
        eax = ebx = ecx = edx = 0
    elif function == 0x8000_0001 and level < 3:
        ecx &= ~_LZCNT
    return Leaf(function, index, eax, ebx, ecx, edx)


def probe(cpu: KvmCpu, shown: Shown, level: int | None) -> Shown:
    """Ask CPUID from ring 3; return what the guest finds.

    Raises EmuError where another CPU was chosen than can be shown.

    Uses a page of the arena while nothing is mapped yet.
    """
    arena = cpu.arena
    arena.set_perms(_PAGE, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC)
    at = physical(_PAGE)
    arena.mapping[at : at + len(_ASK)] = _ASK
    for place, (function, index) in enumerate(_ASKED):
        struct.pack_into("<II", arena.mapping, at + 0x100 + 16 * place, function, index)
    clean = cpu.gprs()
    values = list(clean)
    values[5], values[4] = _TABLE, len(_ASKED)
    cpu.set_gprs(values)
    cpu.run(_PAGE)
    found = [
        struct.unpack_from("<4I", arena.mapping, at + 0x100 + 16 * place) for place in range(len(_ASKED))
    ]
    (leading,) = struct.unpack_from("<I", arena.mapping, at + 0x100 + 16 * len(_ASKED))
    arena.mapping[at : at + PAGE_SIZE] = bytes(PAGE_SIZE)
    cpu.range_changes(_PAGE, _PAGE + PAGE_SIZE, True)
    arena.set_perms(_PAGE, PAGE_SIZE, 0)
    cpu.set_gprs(clean)
    real = dict(zip(_ASKED, found, strict=True))
    masks = ((1, 0, 2), (7, 0, 1), (7, 0, 2))
    if all(
        real[function, index][place] == shown.leaf(function, index)[place] for function, index, place in masks
    ):
        return shown
    leaves = [Leaf(function, index, *real[function, index]) for function, index in _ASKED]
    state = real[13, 0][0] & _STATE
    shown = Shown(leaves, shown.state_mask, shown.state_size, False, leading == _COUNTS_LEADING)
    if level is not None and level < level_of(shown) or state & ~shown.state_mask:
        raise EmuError(
            "--cpu: this host's KVM shows programs the host's own CPU, whatever is chosen; leave --cpu out, or take --engine unicorn for x86-64-v2"
        )
    return shown


def level_of(shown: Shown) -> int:
    """Return the microarchitecture level, 1 to 4."""
    one, seven, extended = shown.leaf(1), shown.leaf(7), shown.leaf(0x8000_0001)
    if one[2] & _V2 != _V2 or not extended[2] & 1:
        return 1
    has_lzcnt = shown.has_lzcnt or extended[2] & _LZCNT
    if one[2] & _V3_1 != _V3_1 or seven[1] & _V3_7 != _V3_7 or not has_lzcnt:
        return 2
    return 4 if seven[1] & _V4_7 == _V4_7 and shown.state_mask == _STATE else 3


def features_of(shown: Shown) -> Features:
    """Return what the guest is told of its CPU."""
    names = b"".join(
        struct.pack("<4I", *shown.leaf(function)) for function in (0x8000_0002, 0x8000_0003, 0x8000_0004)
    )
    highest, ebx, ecx, edx = shown.leaf(0)
    return Features(
        engine="kvm",
        level=level_of(shown),
        trap_code=b"\x0f\x0b",
        leaf1=shown.leaf(1),
        leaf7=shown.leaf(7),
        state=shown.leaf(13, 1),
        extended=shown.leaf(0x8000_0001),
        highest=highest,
        vendor=struct.pack("<3I", ebx, edx, ecx).decode("ascii", "replace"),
        brand=names.split(b"\0")[0].decode("ascii", "replace").strip(),
        hwcap2=_HWCAP2_FSGSBASE if shown.leaf(7)[1] & _FSGSBASE else 0,
        signal_state=shown.state_size + 4,
    )
