"""The emulated vDSO: Linux's functions for reading the clock without a kernel
entry, here as plain system calls.

Programs find it through AT_SYSINFO_EHDR, and ld.so shows it as linux-vdso.so.1; so must we. Time is virtual,
hence nothing is gained by reading it in guest code. Source: vdso(7); Linux arch/x86/entry/vdso/vdso.lds.S.
"""

from __future__ import annotations

import struct

from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.eh_frame import FrameEntry

_FUNCTIONS = (
    (b"clock_gettime", 228),
    (b"gettimeofday", 96),
    (b"time", 201),
    (b"getcpu", 309),
    (b"clock_getres", 229),
)
_VERSION = b"LINUX_2.6"


def build_vdso() -> bytes:
    """Return the ELF image, to be mapped read-execute as it is."""
    builder = ElfBuilder(soname=b"linux-vdso.so.1", hash_style="both", single_segment=True)
    for name, number in _FUNCTIONS:
        code = b"\xb8" + struct.pack("<I", number) + b"\x0f\x05\xc3"  # mov $number, %eax; syscall; ret
        address = builder.text(code)
        builder.frames.append(FrameEntry(address, len(code)))
        builder.define(b"__vdso_" + name, address, size=len(code), version=_VERSION)
        builder.define(name, address, size=len(code), bind=c.STB_WEAK, version=_VERSION)
    builder.note(b"Linux", 0, struct.pack("<I", 0x60100))
    return builder.build()
