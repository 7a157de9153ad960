"""The call page: guest code by which the host calls any guest function, catches what
it throws, and is called back.

`call` takes a block: the function, its arguments by register class, room for the results. An exception that
nothing below catches ends at `call`: its personality, a trap, lets the unwinder run every clean-up below it,
and then leaves through `landing`, which restores the registers that `call` had saved. So no library need be
loaded for it. The traps are functions for the guest to call: what they do is the host's.

Source: psABI 3.2.1 (registers kept over calls), 3.2.3 (parameter passing); Itanium C++ ABI, "Exception
Handling", level I.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.record import NamedTuple
from emu.elf.builder import ElfBuilder
from emu.elf.eh_frame import FrameEntry
from emu.glibc.call_code import CALL_BY_BLOCK

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap

INTEGER_REGISTERS, SSE_REGISTERS = 6, 8
_TRAP_SIZE = 16
_BLOCK_SIZE = 184
_RAX, _XMM0, _FRAME, _EXCEPTION, _RDX, _XMM1 = 136, 144, 152, 160, 168, 176
_REQUEST = struct.Struct("<3Q64s6QQ8sQQ")
"""Function, words on the stack and where they are, vector and general registers;
then room for rax, xmm0, the frame and an exception.
"""
_RESULT = struct.Struct("<Q8s8xQQ8s")
_M64 = (1 << 64) - 1

_CALL = (
    # push %rbp; mov %rsp, %rbp; push %rbx, %r12, %r13, %r14, %r15
    b"\x55\x48\x89\xe5\x53\x41\x54\x41\x55\x41\x56\x41\x57"
    b"\x48\x83\xec\x08"  # sub $8, %rsp
    b"\x48\x89\xfb"  # mov %rdi, %rbx: the block
    b"\x48\x89\xab\x98\x00\x00\x00"
    + CALL_BY_BLOCK  # mov %rbp, 152(%rbx)
    # mov %rdx, 168(%rbx); movsd %xmm1, 176(%rbx)
    + b"\x48\x89\x93\xa8\x00\x00\x00\xf2\x0f\x11\x8b\xb0\x00\x00\x00"
)
_LEAVE = (
    b"\x48\x8d\x65\xd8"  # lea -40(%rbp), %rsp
    b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5b\x5d\xc3"  # pop %r15, %r14, %r13, %r12, %rbx, %rbp; ret
)
_LANDING = b"\x48\x8b\xaf\x98\x00\x00\x00"  # mov 152(%rdi), %rbp
_FRAME_RULES = bytes(
    (0x41, 0x0E, 16, 0x86, 2, 0x43, 0x0D, 6, 0x41, 0x83, 3, 0x42, 0x8C, 4, 0x42, 0x8D, 5, 0x42, 0x8E, 6, 0x42, 0x8F, 7)
)  # fmt: skip
"""After push %rbp the CFA is rsp + 16 and rbp saved there, after the mov rbp + 16;
then the other registers are saved below.
"""


class CallPage(NamedTuple):
    """Guest addresses of the page's parts. `traps` are free for functions of the host."""

    start: int
    end: int
    eh_frame_hdr: int
    call: int
    landing: int
    personality: int
    traps: range

    def name(self, address: int) -> str:
        """Return what the code at an address of the page is, for a backtrace."""
        return (
            "a Python function"
            if address in range(self.traps.start, self.traps.stop)
            else "a call from Python"
        )


class Arguments(NamedTuple):
    """Arguments by where they travel: words for the integer registers, 8 bytes each
    for the SSE registers, words for the stack.
    """

    integers: Sequence[int]
    sse: Sequence[bytes]
    stack: Sequence[int]


class CallOutcome(NamedTuple):
    """What a call left: rax and rdx, the low halves of xmm0 and xmm1, and the
    `_Unwind_Exception` that ended it (0: it returned).
    """

    rax: int
    xmm0: bytes
    exception: int
    rdx: int
    xmm1: bytes


def build_call_page(base: int, callbacks: int, trap_code: bytes) -> tuple[bytes, CallPage]:
    """Return the page's bytes for guest address `base`, with `callbacks` free traps."""
    builder = ElfBuilder(base=base, soname=b"emu-calls", single_segment=True)
    trap = (trap_code + b"\xc3").ljust(_TRAP_SIZE, b"\xcc")  # and ret
    personality = builder.text(trap)
    call = builder.text(_CALL + _LEAVE)
    back = len(_CALL) + len(_LEAVE) + -(len(_CALL) + len(_LEAVE)) % 16
    distance = len(_CALL) - (back + len(_LANDING) + 5)
    landing = builder.text(_LANDING + b"\xe9" + struct.pack("<i", distance))  # jmp to _LEAVE
    assert landing == call + back
    traps = builder.text(trap * callbacks)
    builder.frames += [
        FrameEntry(personality, _TRAP_SIZE),
        FrameEntry(call, len(_CALL) + len(_LEAVE), _FRAME_RULES, personality=personality),
        FrameEntry(traps, _TRAP_SIZE * callbacks),
    ]
    image = builder.build()
    count = struct.unpack_from("<H", image, 56)[0]
    headers = (struct.unpack_from("<IIQQ", image, 64 + 56 * i) for i in range(count))
    header = next(vaddr for kind, _, _, vaddr in headers if kind == 0x6474E550)
    end = base + len(image)
    slots = range(traps, traps + _TRAP_SIZE * callbacks, _TRAP_SIZE)
    return image, CallPage(base, end, header, call, landing, personality, slots)


class BlockCaller:
    """Calls by blocks, and catches what is thrown.

    `blocks` are those of calls in progress, by the thread pointer of the thread.
    """

    def __init__(self, arena: Arena, heap: Heap, page: CallPage) -> None:
        self.arena, self.heap, self.page = arena, heap, page
        self.blocks: dict[int, list[int]] = {}
        self._spare: list[int] = []

    def call(self, thread: int, function: int, arguments: Arguments) -> Generator[Effect, int, CallOutcome]:
        """Call `function` in the running thread, whose thread pointer is `thread`."""
        arena, heap = self.arena, self.heap
        integers = arguments.integers
        words = [word & _M64 for word in integers] + [0] * (INTEGER_REGISTERS - len(integers))
        floats = b"".join(arguments.sse) if arguments.sse else b""  # packing fills up with zeros
        block = self._spare.pop() if self._spare else heap.allocate(_BLOCK_SIZE, 16)
        extra = heap.words([word & _M64 for word in arguments.stack]) if arguments.stack else 0
        arena.write(
            block, _REQUEST.pack(function, len(arguments.stack), extra, floats, *words, 0, bytes(8), 0, 0)
        )
        active = self.blocks.setdefault(thread, [])
        active.append(block)
        yield CallGuest(self.page.call, (block,))
        del active[active.index(block) :]  # calls further in that were jumped out of are over, too
        rax, xmm0, exception, rdx, xmm1 = _RESULT.unpack(arena.read(block + _RAX, _RESULT.size))
        outcome = CallOutcome(rax, xmm0, exception, rdx, xmm1)
        self._spare.append(block)
        if extra:
            heap.free(extra)
        return outcome

    def catch(self, thread: int, rsp: int, exception: int) -> int | None:
        """Note that `exception` ends the innermost call above `rsp`;
        return its block, None if there is none.
        """
        frames = {self.arena.read_u64(block + _FRAME): block for block in self.blocks.get(thread, ())}
        above = [frame for frame in frames if frame > rsp]
        if not above:
            return None
        block = frames[min(above)]
        self.arena.write_u64(block + _EXCEPTION, exception)
        return block
