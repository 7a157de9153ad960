"""Sets of processors as text. Source: Linux lib/vsprintf.c: %*pb, %*pbl."""

from __future__ import annotations


def cpu_ranges(mask: int) -> str:
    """Return a set of processors as a list of ranges: 0-2,4."""
    parts = []
    number = 0
    while mask >> number:
        first = number
        while mask >> number & 1:
            number += 1
        if number > first:
            parts.append(str(first) if number == first + 1 else f"{first}-{number - 1}")
        number += 1
    return ",".join(parts)


def cpu_mask(mask: int, count: int) -> str:
    """Return a set of processors as hexadecimal words of 32 bits, of as
    many digits as there are processors.
    """
    text = f"{mask:0{(count + 3) // 4}x}"
    words = []
    while text:
        words.append(text[-8:])
        text = text[:-8]
    return ",".join(reversed(words))
