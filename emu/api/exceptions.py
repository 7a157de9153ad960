"""From an exception object of the guest to `GuestException`:
its type's name, what it says of itself, and its release.

Source: Itanium C++ ABI, "Exception Handling" 2.2 (`__cxa_exception` lies before the `_Unwind_Exception`), 2.5
(catching); and 2.9.5 (RTTI layout).
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from emu.api.errors import GuestException
from emu.core.effects import CallGuest, Effect
from emu.core.errors import MemoryFault
from emu.elf.demangle import demangle
from emu.glibc.call_page import Arguments

if TYPE_CHECKING:
    from emu.glibc.call_page import BlockCaller
    from emu.machine.arena import Arena
    from emu.process.backtrace import FrameInfo
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_GNU_CPLUSPLUS = 0x474E5543432B2B
"""The upper seven bytes of the class "GNUCC++"; the last is 0, or 1 for a rethrown std::exception_ptr."""
_TYPE_INFO, _HEADER_SIZE = 0x50, 32
_FOREIGN_CAUGHT = 1
_PUBLIC, _VIRTUAL = 2, 1
_STD_EXCEPTION = b"St9exception"
_SINGLE, _MULTIPLE = b"_ZTVN10__cxxabiv120__si_class_type_infoE", b"_ZTVN10__cxxabiv121__vmi_class_type_infoE"
_DEEP = 64
_RUNTIME = re.compile(
    r"_Unwind_|__cxa_(re)?throw|__gxx_personality|uw_|rust_panic|_?_?rust_start_panic|std::rethrow_exception"
)


def caught(
    rtld: Rtld, caller: BlockCaller, thread: int, exception: int, backtrace: Sequence[FrameInfo]
) -> Generator[Effect, int, GuestException]:
    """Return what the exception at `exception` is, and end it as the end of a catch clause would.

    `backtrace` begins in the unwinder.
    """
    arena = caller.arena
    class_, cleanup = arena.read_u64(exception), arena.read_u64(exception + 8)
    name, what = "", None
    runtime = rtld.find_map(cleanup) if cleanup else None
    if class_ >> 8 == _GNU_CPLUSPLUS:
        dependent = class_ & 0xFF == 1
        # A dependent exception has the address of the object that it shares where a primary one has its type.
        object_ = arena.read_u64(exception - _TYPE_INFO) if dependent else exception + _HEADER_SIZE
        primary = object_ - _HEADER_SIZE
        type_info = arena.read_u64(primary - _TYPE_INFO)
        name = demangle("_ZTI" + _name(arena, type_info).decode(errors="replace")).removeprefix(
            "typeinfo for "
        )
        base = _as_std_exception(rtld, arena, type_info, object_, runtime)
        if base is not None:
            function = arena.read_u64(arena.read_u64(base) + 16)  # behind the two destructors
            outcome = yield from caller.call(thread, function, Arguments((base,), (), ()))
            if not outcome.exception and outcome.rax:
                what = os.fsdecode(arena.read_cstr(outcome.rax))
    begin = rtld.lookup(b"__cxa_begin_catch", runtime) if runtime is not None else None
    end = rtld.lookup(b"__cxa_end_catch", runtime) if runtime is not None else None
    if begin is not None and end is not None and name:
        yield CallGuest(begin, (exception,))
        yield from caller.call(thread, end, Arguments((), (), ()))
    elif cleanup:
        yield from caller.call(thread, cleanup, Arguments((_FOREIGN_CAUGHT, exception), (), ()))
    return GuestException(name, what, thrown(backtrace))


def thrown(backtrace: Sequence[FrameInfo]) -> list[FrameInfo]:
    """Return the frames behind those of the language's runtime, which are the same for every exception."""
    first = next(
        (n for n, frame in enumerate(backtrace) if frame.function and not _RUNTIME.match(frame.function)), 0
    )
    return [frame._replace(level=frame.level - backtrace[first].level) for frame in backtrace[first:]]


def _name(arena: Arena, type_info: int) -> bytes:
    return arena.read_cstr(arena.read_u64(type_info + 8)).removeprefix(b"*")


def _as_std_exception(
    rtld: Rtld, arena: Arena, type_info: int, object_: int, runtime: LinkMap | None
) -> int | None:
    """Return the address of the object's part that is a std::exception, None if it has none."""
    tables = {}
    for symbol in (_SINGLE, _MULTIPLE):
        address = rtld.lookup(symbol, runtime) if runtime is not None else None
        if address is not None:
            tables[address + 16] = symbol

    def search(info: int, at: int, depth: int) -> int | None:
        if _name(arena, info) == _STD_EXCEPTION:
            return at
        kind = tables.get(arena.read_u64(info))
        if depth == _DEEP or kind is None:
            return None
        if kind == _SINGLE:
            return search(arena.read_u64(info + 16), at, depth + 1)
        for number in range(arena.read_u32(info + 20)):
            base, flags = arena.read_u64(info + 24 + 16 * number), arena.read_u64(info + 32 + 16 * number)
            offset = (flags ^ 1 << 63) - (1 << 63) >> 8
            if flags & _PUBLIC:
                # A virtual base's offset lies in the object's vtable.
                place = arena.read_u64(arena.read_u64(at) + offset) if flags & _VIRTUAL else offset
                if (found := search(base, at + place & (1 << 64) - 1, depth + 1)) is not None:
                    return found
        return None

    try:
        return search(type_info, object_, 0)
    except MemoryFault:
        return None  # a pointer or a fundamental type was thrown: its type has no such structure
