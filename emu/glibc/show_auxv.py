"""LD_SHOW_AUXV: the auxiliary vector as lines, which ld.so prints before it goes on.

Source: glibc sysdeps/unix/sysv/linux/dl-sysdep.c:_dl_show_auxv; getauxval(3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

_FIRST: Final = 2
"""AT_NULL and AT_IGNORE are not shown."""
_DECIMAL: Final = {
    2: "EXECFD", 4: "PHENT", 5: "PHNUM", 6: "PAGESZ", 11: "UID", 12: "EUID", 13: "GID", 14: "EGID", 17: "CLKTCK", 23: "SECURE",
    40: "L1I_CACHESIZE", 42: "L1D_CACHESIZE", 44: "L2_CACHESIZE", 46: "L3_CACHESIZE", 51: "MINSIGSTKSZ",
}  # fmt: skip
_TEXT: Final = {15: "PLATFORM", 24: "BASE_PLATFORM", 31: "EXECFN"}
_HEX: Final = {10: "NOTELF", 16: "HWCAP", 18: "FPUCW"}
_HEX_0X: Final = {
    3: "PHDR", 7: "BASE", 8: "FLAGS", 9: "ENTRY", 19: "DCACHEBSIZE", 20: "ICACHEBSIZE", 21: "UCACHEBSIZE", 25: "RANDOM", 26: "HWCAP2",
    32: "SYSINFO", 33: "SYSINFO_EHDR", 41: "L1I_CACHEGEOMETRY", 43: "L1D_CACHEGEOMETRY", 45: "L2_CACHEGEOMETRY", 47: "L3_CACHEGEOMETRY",
}  # fmt: skip
_WIDTH: Final = 19


def show_auxv(pairs: Iterable[tuple[int, int]], text_at: Callable[[int], str]) -> str:
    """Return a line for each of `pairs` (type, value); `text_at` gives the string at an address."""
    lines = []
    for kind, value in pairs:
        if kind < _FIRST:
            continue
        for names, shown in ((_DECIMAL, "{}"), (_HEX, "{:x}"), (_HEX_0X, "0x{:x}")):
            if kind in names:
                lines.append(f"AT_{names[kind]}:".ljust(_WIDTH + 3) + shown.format(value))
                break
        else:
            if kind in _TEXT:
                lines.append(f"AT_{_TEXT[kind]}:".ljust(_WIDTH + 3) + text_at(value))
            else:
                lines.append(f"AT_??? (0x{kind:x}): 0x{value:x}")
    return "".join(line + "\n" for line in lines)
