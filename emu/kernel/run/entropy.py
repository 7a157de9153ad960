"""Seeded random bytes for the guest: one stream for getrandom, /dev/urandom and AT_RANDOM.

The generator is SplitMix64: tiny, well distributed, and needs no import at start-up. It is not for secrets,
and the guest has none.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

from __future__ import annotations

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN = 0x9E37_79B9_7F4A_7C15


class Entropy:
    """A stream of bytes that depends on `seed` alone."""

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def word(self) -> int:
        """Return the next 64 bits."""
        self._state = z = (self._state + _GOLDEN) & _MASK
        z = (z ^ z >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D0_49BB_1331_11EB & _MASK
        return z ^ z >> 31

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; what is left of the last word is dropped."""
        words = (self.word().to_bytes(8, "little") for _ in range((size + 7) // 8))
        return b"".join(words)[:size]
