"""What a Python function that the guest calls is given, and where its result goes.

Source: psABI 3.2.3 (passing and returning of values).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from emu.api import aggregates
from emu.api.aggregates import OnStack, Travel
from emu.glibc.call_page import SSE_REGISTERS
from emu.machine import regs

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.glibc.call import HostedCall
    from emu.machine.arena import Arena
    from emu.machine.engine import Cpu

_XMM_OFFSET, _XMM_SIZE = 160, 16
"""Of XMM0 in an FXSAVE image, and how far the next is."""
_WORD = 8


class Incoming:
    """The arguments of one call that the guest makes, read one after the other."""

    def __init__(self, call: HostedCall, cpu: Cpu, arena: Arena) -> None:
        self._words = list(call.args)
        self._vectors = _low_halves(cpu.fxsave())
        self._stack, self._arena = call.rsp + _WORD, arena

    def word(self) -> int:
        """Return the next argument of class INTEGER."""
        return self._words.pop(0) if self._words else self._pop()

    def vector(self) -> bytes:
        """Return the low half of the next argument of class SSE."""
        return self._vectors.pop(0) if self._vectors else self._pop().to_bytes(_WORD, "little")

    def aggregate(self, type_: Any) -> Any:
        """Return the next argument, a structure or union by value."""
        kinds = aggregates.travels(type_)
        vectors = sum(kind is Travel.SSE for kind in kinds)
        if kinds and vectors <= len(self._vectors) and len(kinds) - vectors <= len(self._words):
            general = tuple(self.word() for _ in range(len(kinds) - vectors))
            return aggregates.returned(type_, general, tuple(self.vector() for _ in range(vectors)))
        like = aggregates.on_stack(type_)
        if like.aligned:
            self._stack += -self._stack % (2 * _WORD)
        content = b"".join(self._pop().to_bytes(_WORD, "little") for _ in like.words)
        return type_.from_buffer_copy(content)

    def _pop(self) -> int:
        value, self._stack = self._arena.read_u64(self._stack), self._stack + _WORD
        return value


def _low_halves(image: bytes) -> list[bytes]:
    return [
        image[at : at + _WORD]
        for at in range(_XMM_OFFSET, _XMM_OFFSET + SSE_REGISTERS * _XMM_SIZE, _XMM_SIZE)
    ]


def placed(cpu: Cpu, parts: list[int | bytes]) -> tuple[int, Callable[[], None]]:
    """Return what rax will have of a result in registers, and what puts the rest
    into rdx, xmm0 and xmm1 at the return.
    """
    general = [part for part in parts if isinstance(part, int)]
    vectors = [part for part in parts if isinstance(part, bytes)]

    def load() -> None:
        if len(general) > 1:
            cpu.set(regs.RDX, general[1])
        if vectors:
            image = bytearray(cpu.fxsave())
            for number, low in enumerate(vectors):
                struct.pack_into("<8sQ", image, _XMM_OFFSET + number * _XMM_SIZE, low, 0)
            cpu.fxrstor(bytes(image))

    return general[0] if general else 0, load


def written(arena: Arena, at: int, result: OnStack, size: int) -> int:
    """Write a result that travels in memory where the caller has made room; return what rax has then,
    that address.
    """
    content = b"".join(word.to_bytes(_WORD, "little") for word in result.words)
    arena.write(at, content[:size])
    return at
