"""Signal numbers of gdb's protocol, which are gdb's own, and Linux's.

Source: gdb's include/gdb/signals.def, as the manual refers to it; signal(7).
"""

from __future__ import annotations

_TO_GDB = {
    0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 10, 8: 8, 9: 9, 10: 30, 11: 11, 12: 31, 13: 13, 14: 14, 15: 15, 17: 20,
    18: 19, 19: 17, 20: 18, 21: 21, 22: 22, 23: 16, 24: 24, 25: 25, 26: 26, 27: 27, 28: 28, 29: 23, 30: 32, 31: 12,
    32: 77, 64: 78,
} | {number: number + 12 for number in range(33, 64)}  # fmt: skip
"""SIGRTMIN's neighbours: 33 to 63 are 45 to 75 there, 32 and 64 came later."""
_TO_LINUX = {theirs: number for number, theirs in _TO_GDB.items()}
_UNKNOWN = 143


def from_linux(number: int) -> int:
    """Return gdb's number of a Linux signal."""
    return _TO_GDB.get(number, _UNKNOWN)


def to_linux(number: int) -> int:
    """Return the Linux signal of gdb's number, 0 for one that Linux does not have."""
    return _TO_LINUX.get(number, 0)
