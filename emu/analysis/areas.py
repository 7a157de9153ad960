"""The guest's memory map as an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.analysis.data import Address
from emu.core.text import printable

if TYPE_CHECKING:
    from emu.machine.vma import Vma
    from emu.process import Process


@dataclass(frozen=True, slots=True)
class Area:
    """A range of memory, up to `end`, which is not part of it.

    `permissions` and `name` are those of /proc/PID/maps, `offset` (in the file) is in bytes.
    """

    start: Address
    end: Address
    permissions: str
    offset: int
    name: str


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """The areas of a program's memory, by address."""

    program: str
    areas: tuple[Area, ...]


def memory_map(process: Process) -> MemoryMap:
    """Return the areas of a process as they are now."""
    return MemoryMap(process.config.program, tuple(map(_area, process.space)))


def render(answer: MemoryMap) -> str:
    """Return the lines that /proc/PID/maps has, without device and inode. Source: proc(5)."""
    lines = (f"{a.start:012x}-{a.end:012x} {a.permissions} {a.offset:08x} {a.name}" for a in answer.areas)
    return "".join(f"{printable(line.rstrip())}\n" for line in lines)


def _area(vma: Vma) -> Area:
    bits = "".join(letter if vma.prot & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))
    permissions = bits + ("s" if vma.shared else "p")
    return Area(Address(vma.start), Address(vma.end), permissions, vma.offset, vma.name)
