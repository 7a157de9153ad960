"""System calls as text, in the manner of strace: names for flags and errors, quoted strings, buffers cut
at 32 bytes.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from emu.core.effects import Exit
from emu.core.errors import MemoryFault
from emu.core.task_events import Syscall
from emu.kernel import abi
from emu.kernel.run.credentials import UNCHANGED

if TYPE_CHECKING:
    from emu.kernel.run.call import Result, SyscallEntry
    from emu.machine.arena import Arena

_SHOWN = 32
_ESCAPES = {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", ord('"'): '\\"', ord("\\"): "\\\\"}


def _flags(prefix: str, *names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, getattr(abi, prefix + name)) for name in names)


_OPEN = _flags(
    "O_", "CREAT", "EXCL", "NOCTTY", "TRUNC", "APPEND", "NONBLOCK", "TMPFILE", "SYNC", "DSYNC", "ASYNC",
    "DIRECT", "DIRECTORY", "NOFOLLOW", "NOATIME", "CLOEXEC", "PATH",
)  # fmt: skip
_FLAG_SETS: dict[str, tuple[str, tuple[tuple[str, int], ...], dict[int, str]]] = {
    "open": ("O_", _OPEN, {}),
    "prot": ("PROT_", _flags("PROT_", "READ", "WRITE", "EXEC", "GROWSDOWN", "GROWSUP"), {0: "PROT_NONE"}),
    "map": (
        "MAP_",
        (
            *_flags("MAP_", "SHARED", "PRIVATE", "FIXED", "ANONYMOUS", "32BIT", "GROWSDOWN"),
            ("DENYWRITE", 0x800),
        )
        + (
            ("NORESERVE", 0x4000),
            ("POPULATE", 0x8000),
            ("STACK", 0x20000),
            *_flags("MAP_", "FIXED_NOREPLACE"),
        ),
        {},
    ),
    "at": (
        "AT_",
        _flags("AT_", "SYMLINK_NOFOLLOW", "REMOVEDIR", "SYMLINK_FOLLOW", "NO_AUTOMOUNT", "EMPTY_PATH"),
        {},
    ),
    "access": ("", _flags("", "R_OK", "W_OK", "X_OK"), {0: "F_OK"}),
    "futex": ("FUTEX_", (("PRIVATE_FLAG", 128), ("CLOCK_REALTIME", 256)), {}),
}
_FUTEX = (
    "WAIT",
    "WAKE",
    "FD",
    "REQUEUE",
    "CMP_REQUEUE",
    "WAKE_OP",
    "LOCK_PI",
    "UNLOCK_PI",
    "TRYLOCK_PI",
    "WAIT_BITSET",
    "WAKE_BITSET",
)
_CLOCKS = {
    abi.CLOCK_REALTIME: "CLOCK_REALTIME", abi.CLOCK_MONOTONIC: "CLOCK_MONOTONIC",
    abi.CLOCK_PROCESS_CPUTIME_ID: "CLOCK_PROCESS_CPUTIME_ID", abi.CLOCK_THREAD_CPUTIME_ID:
    "CLOCK_THREAD_CPUTIME_ID", abi.CLOCK_MONOTONIC_RAW: "CLOCK_MONOTONIC_RAW", abi.CLOCK_REALTIME_COARSE:
    "CLOCK_REALTIME_COARSE", abi.CLOCK_MONOTONIC_COARSE: "CLOCK_MONOTONIC_COARSE", abi.CLOCK_BOOTTIME:
    "CLOCK_BOOTTIME", abi.CLOCK_TAI: "CLOCK_TAI",
}  # fmt: skip
_HEX_RESULTS = frozenset(("mmap", "brk", "mremap"))


def quote(data: bytes, limit: int = _SHOWN) -> str:
    """Return bytes as a C string literal, with `...` where it was cut."""
    shown = "".join(
        _ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:o}") for byte in data[:limit]
    )
    return f'"{shown}"' + ("..." if len(data) > limit else "")


def flag_names(kind: str, value: int) -> str:
    """Return `value` as names joined by `|`; bits without a name stay a number."""
    prefix, flags, whole = _FLAG_SETS[kind]
    if value in whole:
        return whole[value]
    parts = []
    if kind == "open":
        parts.append(("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[value & abi.O_ACCMODE])
        value &= ~(abi.O_ACCMODE | abi.O_LARGEFILE)
    elif kind == "futex":
        command = value & 0x7F
        parts.append(f"FUTEX_{_FUTEX[command]}" if command < len(_FUTEX) else str(command))
        value &= ~0x7F
    for name, mask in flags:
        if value & mask == mask:
            parts.append(prefix + name)
            value &= ~mask
    if value:
        parts.append(f"{value:#x}")
    return "|".join(parts) or "0"


def error_name(number: int) -> str:
    """Return ENOENT for 2."""
    return errno.errorcode.get(number, f"errno {number}")


def _string(arena: Arena, address: int) -> str:
    if not address:
        return "NULL"
    try:
        return quote(arena.read_cstr(address, abi.PATH_MAX), abi.PATH_MAX)
    except MemoryFault:
        return f"{address:#x}"


def before(arena: Arena, entry: SyscallEntry, call: tuple[int, ...]) -> dict[int, str]:
    """Return the text of the arguments that the call itself may change or free: its strings, by index."""
    return {
        index: _string(arena, call[index])
        for index, kind in enumerate(entry.formats)
        if kind in ("path", "str")
    }


def _buffer(arena: Arena, address: int, size: int) -> str:
    if size < 0:
        return f"{address:#x}"
    try:
        data = arena.copy_in(address, min(size, _SHOWN + 1))
    except MemoryFault:
        return f"{address:#x}"
    return quote(data)


def _argument(arena: Arena, kind: str, index: int, call: tuple[int, ...], result: int) -> str:
    value = call[index]
    if kind.startswith("flags:"):
        return flag_names(kind[6:], value)
    match kind:
        case "dirfd" if value == abi.AT_FDCWD:
            return "AT_FDCWD"
        case "ptr":
            return f"{value:#x}" if value else "NULL"
        case "hex":
            return f"{value:#x}"
        case "in":  # a buffer whose size is the next argument
            return _buffer(arena, value, call[index + 1])
        case "out":  # a buffer filled with as many bytes as the call returned
            return _buffer(arena, value, result)
        case "id" if value == UNCHANGED:
            return "-1"
        case "mode":
            return f"{value:#o}" if value else "0"
        case "signal" if 0 < value <= abi.NSIG:
            return abi.signal_name(value)
        case "clock":
            return _CLOCKS.get(value, str(value))
    return str(value)


def event(
    arena: Arena, entry: SyscallEntry, call: tuple[int, ...], texts: dict[int, str], result: Result
) -> Syscall:
    """Return the event of a call that is done."""
    number = result if isinstance(result, int) else 0
    arguments = ", ".join(
        texts[i] if i in texts else _argument(arena, kind, i, call, number)
        for i, kind in enumerate(entry.formats)
    )
    if isinstance(result, Exit):
        text = "?"
    elif not isinstance(result, int):
        text = "(registers restored)"
    elif -4096 < result < 0:
        text = f"-1 {error_name(-result)}"
    else:
        text = f"{result:#x}" if entry.name in _HEX_RESULTS else str(result)
    return Syscall(entry.number, entry.name, arguments, text)


def unknown(number: int, name: str) -> Syscall:
    """Return the event of a call that has no handler."""
    return Syscall(number, name, "...", "-1 ENOSYS")
