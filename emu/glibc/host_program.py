"""The program that hosts a library when there is no program:
an empty `main` that hands control to us, and a way to call anything.

It is a real executable for the loader (interpreter, DT_NEEDED libc.so.6, `__libc_start_main`), so that
constructors, TLS, exit handlers and destructors are what they are in any program.

Source: gABI; psABI 3.2.3 (parameter passing), 3.4.1 (process entry); glibc sysdeps/x86_64/start.S for what
`_start` must do.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.builder import ElfBuilder
from emu.elf.eh_frame import FrameEntry
from emu.glibc.call_code import CALL_BY_BLOCK
from emu.glibc.choose_layout import read_libc
from emu.glibc.debug_files import DebugSystem
from emu.glibc.probe import find_own
from emu.kernel.fs.vfs import FileSystem

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from emu.machine.arena import Arena
    from emu.rtld.heap import Heap

INTERPRETER = b"/lib64/ld-linux-x86-64.so.2"
BLOCK_SIZE = 152
_REGISTERS, _FLOATS = 6, 8

_START = (
    b"\x31\xed"  # xor %ebp, %ebp
    b"\x49\x89\xd1"  # mov %rdx, %r9: the function for atexit
    b"\x5e"  # pop %rsi: argc
    b"\x48\x89\xe2"  # mov %rsp, %rdx: argv
    b"\x48\x83\xe4\xf0"  # and $-16, %rsp
    b"\x50\x54"  # push %rax; push %rsp
    b"\x45\x31\xc0\x31\xc9"  # xor %r8d, %r8d; xor %ecx, %ecx
    b"\x48\x8d\x3d\x15\x00\x00\x00"  # lea main(%rip), %rdi
    b"\xff\x15"  # call *__libc_start_main@GOT(%rip)
)
_MAIN_AT = 0x30
_MAIN = b"\x90\x90\xc3"  # room for a trap; ret
_CALL = (
    b"\x55\x48\x89\xe5\x53\x48\x83\xec\x08"  # push %rbp; mov %rsp, %rbp; push %rbx; sub $8, %rsp
    b"\x48\x89\xfb"  # mov %rdi, %rbx: the block
    + CALL_BY_BLOCK
    + b"\x48\x8d\x65\xf8\x5b\x5d\xc3"  # lea -8(%rbp), %rsp; pop %rbx; pop %rbp; ret
)
_CALL_FRAME = bytes((0x41, 0x0E, 16, 0x86, 2, 0x43, 0x0D, 6, 0x41, 0x83, 3))
"""After push %rbp the CFA is rsp + 16 and rbp saved there; after the mov it is rbp + 16;
then rbx is saved below.
"""


class HostProgram(NamedTuple):
    """The executable's bytes, and the link-time addresses of its trap (`main`) and of
    the function that calls by a block.
    """

    image: bytes
    main: int
    call: int


def host_program_for(sysroot: str, needed: Sequence[bytes] = ()) -> HostProgram:
    """Return the executable for the libc of a system: with libdl and libpthread where these are still apart,
    as before 2.34.
    """
    files = FileSystem(sysroot, lambda: 0, lambda size: None, os.getuid(), os.getgid())
    try:
        libc, _ = read_libc(DebugSystem(files, sysroot), INTERPRETER.decode())
    except (OSError, ElfError):
        return build_host_program(needed)  # what is wrong there is told when it is loaded
    apart = () if find_own(libc, b"dlopen") is not None else (b"libdl.so.2", b"libpthread.so.0")
    return build_host_program((*needed, *apart))


def build_host_program(needed: Sequence[bytes] = ()) -> HostProgram:
    """Return the executable; `needed` are objects that it needs before libc."""
    builder = ElfBuilder()
    builder.interp = INTERPRETER
    builder.needed = [*needed, b"libc.so.6"]
    builder.flags, builder.flags_1 = c.DF_BIND_NOW, c.DF_1_PIE | c.DF_1_NOW
    slot = builder.data(bytes(8))
    start_at = builder.text_region.end
    after_call = start_at + len(_START) + 4
    code = _START + struct.pack("<i", slot - after_call) + b"\xf4"
    start = builder.text(code + b"\x90" * (_MAIN_AT - len(code)) + _MAIN)
    assert start == start_at
    call = builder.text(_CALL)
    builder.frames += [
        FrameEntry(start, _MAIN_AT, bytes((0x07, 16))),
        FrameEntry(start + _MAIN_AT, len(_MAIN)),
        FrameEntry(call, len(_CALL), _CALL_FRAME),
    ]
    builder.entry = start
    # Every libc has the first version; without an `init` function it does since 2.34 what the later one does.
    target = builder.undefined(
        b"__libc_start_main", type_=c.STT_FUNC, version=b"GLIBC_2.2.5", file=b"libc.so.6"
    )
    builder.rela(c.R_X86_64_GLOB_DAT, slot, target)
    return HostProgram(builder.build(), start + _MAIN_AT, call)


def call_by_block(
    arena: Arena, heap: Heap, call: int, function: int, words: Sequence[int], floats: Sequence[bytes]
) -> Generator[Effect, int, tuple[int, bytes]]:
    """Call `function` with integer-class `words` and SSE-class `floats` (8 bytes each);
    return rax and the low half of xmm0.

    `call` is the guest address of the host program's caller. What does not fit the registers goes to the
    stack, integers first: a caller that mixes both kinds past the registers must order `words` itself.
    Source: psABI 3.2.3.
    """
    stack = [*words[_REGISTERS:], *(int.from_bytes(value, "little") for value in floats[_FLOATS:])]
    in_registers = [*words[:_REGISTERS], *[0] * (_REGISTERS - len(words))]
    in_sse = [*floats[:_FLOATS], *[bytes(8)] * (_FLOATS - len(floats))]
    block = heap.allocate(BLOCK_SIZE, 16)
    extra = heap.words([word & (1 << 64) - 1 for word in stack]) if stack else 0
    arena.write(block, struct.pack("<QQQ", function, len(stack), extra))
    arena.write(block + 24, b"".join(in_sse))
    arena.write(block + 88, struct.pack("<6Q", *(word & (1 << 64) - 1 for word in in_registers)))
    yield CallGuest(call, (block,))
    result = arena.read_u64(block + 136), arena.read(block + 144, 8)
    heap.free(block)
    if extra:
        heap.free(extra)
    return result
