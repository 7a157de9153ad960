"""One virtual memory area: a line of /proc/self/maps. Source: proc(5); Linux mm/mmap.c:can_vma_merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.core.files import Backing


class Vma:
    """One area [start, end) with equal protection and one origin.

    `offset` is the file offset of `start`, in bytes.

    `host_mapped` tells that host file pages lie under it, which must be replaced when it goes.
    """

    __slots__ = ("start", "end", "prot", "shared", "name", "offset", "backing", "host_mapped")

    def __init__(
        self,
        start: int,
        end: int,
        prot: int,
        *,
        shared: bool = False,
        name: str = "",
        offset: int = 0,
        backing: Backing | None = None,
        host_mapped: bool = False,
    ) -> None:
        self.start, self.end, self.prot, self.shared = start, end, prot, shared
        self.name, self.offset, self.backing, self.host_mapped = name, offset, backing, host_mapped

    def part(self, start: int, end: int) -> Vma:
        """Return a copy that covers [start, end) of this area."""
        offset = self.offset + start - self.start if self.backing is not None else 0
        return Vma(
            start, end, self.prot, shared=self.shared, name=self.name, offset=offset, backing=self.backing,
            host_mapped=self.host_mapped,
        )  # fmt: skip

    def joins(self, other: Vma) -> bool:
        """Whether `other`, which starts where this one ends, can be one area with it."""
        return (
            self.end == other.start
            and self.prot == other.prot
            and self.shared == other.shared
            and self.name == other.name
            and self.backing is other.backing
            and (self.backing is None or self.offset + self.end - self.start == other.offset)
        )

    def __repr__(self) -> str:
        flags = "".join(c if self.prot & bit else "-" for c, bit in (("r", 1), ("w", 2), ("x", 4)))
        return f"<Vma {self.start:#x}-{self.end:#x} {flags} {self.name}>"
