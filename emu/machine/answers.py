"""What the CPU answers about itself: CPUID, and the time-stamp counter.

Source: Intel SDM volume 2, CPUID, RDTSC, RDTSCP.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.machine import binding, regs
from emu.machine.binding import RegisterBatch, Unicorn
from emu.machine.features import Features

CPUID_1 = (0x306C4, 0x800, 0x8ED82203, 0x78BFBFD)
"""CPUID leaf 1 of Unicorn's Haswell (no AVX, FMA or F16C), less RDRAND, whose numbers would be the host's."""
FEATURES = Features(
    engine="unicorn", level=2, trap_code=b"\x0f\x05", leaf1=CPUID_1, leaf7=(0, 0x389, 0, 0), state=(1, 0, 0, 0),
    extended=(CPUID_1[0], 0, 0x21, 0x28100800), highest=13, vendor="GenuineIntel", brand="Intel Core Processor (Haswell)", hwcap2=0, signal_state=512,
)  # fmt: skip
"""What leaves 7, 13.1 and 0x80000001 say is Unicorn's own.

CR4 does not let ring 3 write FS's base, so AT_HWCAP2 has no FSGSBASE.
"""

_RAX, _RCX, _RDX = 0, 2, 3


def answer_instructions(engine: Unicorn, read_tsc: Callable[[], int]) -> None:
    """Answer CPUID leaf 1, RDTSC and RDTSCP here; other leaves are Unicorn's."""
    registers = RegisterBatch(engine, (regs.RAX, regs.RBX, regs.RCX, regs.RDX))

    def rdtsc(_uc: int, _data: int) -> int:
        value = read_tsc()
        registers.read()
        registers.values[_RAX], registers.values[_RDX] = value & 0xFFFFFFFF, value >> 32
        registers.write()
        return 1

    def rdtscp(_uc: int, _data: int) -> int:
        registers.read()
        registers.values[_RCX] = 0
        registers.write()
        return rdtsc(_uc, _data)

    def cpuid(_uc: int, _data: int) -> int:
        registers.read()
        if registers.values[_RAX] & 0xFFFF_FFFF != 1:
            return 0
        for place, value in enumerate(CPUID_1):
            registers.values[place] = value
        registers.write()
        return 1

    for handler, instruction in (
        (rdtsc, binding.INS_RDTSC),
        (rdtscp, binding.INS_RDTSCP),
        (cpuid, binding.INS_CPUID),
    ):
        engine.hook(binding.UC_HOOK_INSN, binding.INSN_BOOL(handler), instruction=instruction)
