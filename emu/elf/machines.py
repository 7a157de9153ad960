"""For which machine an ELF file is, in words.

Source: the gABI's list of e_machine values; psABI x86-64, ILP32.
"""

from __future__ import annotations

from emu.elf import constants as c

NAMES = {
    2: "SPARC", 3: "x86", 8: "MIPS", 15: "PA-RISC", 18: "SPARC", 20: "PowerPC", 21: "PowerPC64", 22: "s390x", 40: "Arm", 42: "SuperH",
    43: "SPARC", 50: "IA-64", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 258: "LoongArch",
}  # fmt: skip
HEAD = 20
"""Bytes of a file that tell."""


def machine_of(head: bytes) -> int:
    """Return e_machine of a file that begins with `head`, in the file's own byte order;
    at least HEAD bytes.
    """
    return int.from_bytes(head[18:20], "big" if head[c.EI_DATA] == c.ELFDATA2MSB else "little")


def name_of(machine: int) -> str:
    """Return what people call a machine."""
    return NAMES.get(machine, f"machine {machine}")


def foreign(head: bytes) -> str:
    """Return the machine of an ELF file that x86-64 does not run, as in `AArch64` or `32-bit x86`;
    empty for x86-64, and for what is no ELF file.
    """
    if len(head) < HEAD or head[:4] != c.ELFMAG:
        return ""
    machine = machine_of(head)
    small = head[c.EI_CLASS] == c.ELFCLASS32
    if machine == c.EM_X86_64:
        return "x32 (x86-64 with 32-bit pointers)" if small else ""
    return f"{'32-bit ' if small else ''}{name_of(machine)}"
