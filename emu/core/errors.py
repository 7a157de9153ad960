"""Errors that `emu` raises about its input, each with the exit code that the command line ends with.

A guest's own failure is never one of these: it is an exit code or a signal of the guest.
"""

from __future__ import annotations

import os
import struct

from emu.core.text import printable

EXIT_USAGE = 2
EXIT_FINDINGS = 1
EXIT_SYSROOT = 123
EXIT_TIMEOUT = 124
EXIT_EMU = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_LOADER = 127


class EmuError(Exception):
    """Base of all errors that `emu` reports in one line instead of a traceback."""

    exit_code = EXIT_EMU
    fact: object = None
    """What is known beyond the words, for whoever asks why:
    kept by the layer that knows (`emu.rtld.failure`).
    """


class ElfError(EmuError):
    """A file is not what an ELF object must be.

    `object_name` is the path or name as the user knows it, `reason` the words that ld.so has for it, where it
    has any.
    """

    exit_code = EXIT_LOADER

    def __init__(self, object_name: str, reason: str) -> None:
        super().__init__(f"{object_name}: {reason}")
        self.object_name = object_name
        self.reason = reason


class LoaderError(EmuError):
    """What ld.so reports and ends a process for: `NAME: TEXT`, with the errno that it would add.

    Source: glibc elf/dl-error-skeleton.c:_dl_signal_error.
    """

    exit_code = EXIT_LOADER

    def __init__(self, object_name: str, text: str, errno: int = 0, *, occasion: str | None = None) -> None:
        super().__init__(f"{object_name}: {text}" if object_name else text)
        self.object_name = object_name
        self.text = text
        self.errno = errno
        self.occasion = occasion


class LinkError(EmuError):
    """ld.so's last words, complete, with the program's name in front: shown as they stand.

    `cause` is the error that they are about.
    """

    def __init__(self, text: str, exit_code: int = EXIT_LOADER, cause: EmuError | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.cause = cause


class Inconsistency(LinkError):
    """An assertion in ld.so that does not hold: it says so, and ends the process at once, in dlopen too.

    Lines are those of glibc 2.36.
    """

    def __init__(self, file: str, line: int, function: str, expression: str) -> None:
        where = f"{file}: {line}: {function}"
        super().__init__(f"Inconsistency detected by ld.so: {where}: Assertion `{expression}' failed!")


class UnsupportedError(EmuError):
    """Something that exists in the field but not in `emu`:
    a relocation type, an instruction, a syscall, an ELF field.

    `thing` names it, `where` the object (and offset) that it is in.
    """

    def __init__(self, thing: str, where: str, hint: str = "") -> None:
        super().__init__(f"{where}: unsupported {thing}" + (f"; {hint}" if hint else ""))
        self.thing = thing
        self.where = where
        self.hint = hint

    def or_else(self, hint: str) -> UnsupportedError:
        """Return the same error with one more way out."""
        return UnsupportedError(self.thing, self.where, f"{self.hint}; {hint}" if self.hint else hint)


class CpuLevelError(UnsupportedError):
    """An object is marked as needing a microarchitecture `level` that the CPU does not have."""

    def __init__(self, level: str, where: str, hint: str = "") -> None:
        super().__init__(f"CPU: the object needs {level} (GNU_PROPERTY_X86_ISA_1_NEEDED)", where, hint)
        self.level = level

    def or_else(self, hint: str) -> CpuLevelError:
        """Return the same error with one more way out."""
        return CpuLevelError(self.level, self.where, f"{self.hint}; {hint}" if self.hint else hint)


class ProgramError(EmuError):
    """The program named on the command line cannot be started (missing, not executable, not x86-64)."""

    exit_code = EXIT_NOT_EXECUTABLE

    def __init__(self, message: str, exit_code: int = EXIT_NOT_EXECUTABLE) -> None:
        super().__init__(printable(message))  # a name may have newlines
        self.exit_code = exit_code


class ExecError(ProgramError):
    """A program cannot be executed; `errno` is what execve says."""

    def __init__(self, message: str, errno: int, exit_code: int = EXIT_NOT_EXECUTABLE) -> None:
        super().__init__(message, exit_code)
        self.errno = errno


class NoRoomError(EmuError):
    """The host has no addresses left for another guest's memory."""


class SysrootError(EmuError):
    """A sysroot that is not there, not sound, or cannot be made: what is wrong with it, in one line."""

    exit_code = EXIT_SYSROOT


class RunTimeout(EmuError):
    """The run took longer than `--timeout`."""

    exit_code = EXIT_TIMEOUT


class MemoryFault(Exception):
    """An access by `emu` itself to guest memory that is not mapped or not permitted.

    The kernel personality turns it into EFAULT; anywhere else it means that the guest's data are broken.
    `access` is "read", "write" or "execute".
    """

    def __init__(self, address: int, access: str) -> None:
        address &= (1 << 64) - 1  # sums of the guest's numbers wrap
        super().__init__(f"{access} of {address:#x}")
        self.address = address
        self.access = access


class WildPointerError(MemoryFault):
    """A pointer of the guest's that leads to memory, perhaps, but to no `thing` (a link map, a scope):
    natively a fault soon after.

    `address` is what was given.
    """

    def __init__(self, address: int, thing: str) -> None:
        super().__init__(address, "read")
        self.args = (f"{address:#x} is no {thing}",)
        self.thing = thing


UNFORESEEN = (LookupError, ArithmeticError, ValueError, struct.error, RecursionError, OSError, MemoryError)
"""What code that serves the guest raises over arguments and data that nobody has thought of.

Three boundaries turn these into what Linux would do: `Kernel.syscall` into an errno, `Runner` into the
SIGSEGV of a hosted function, `Process.advance` into one of the instruction at hand. They are the net: each
such error is to be mended where it arises, and with EMU_STRICT=1 nothing is caught.
"""

STRICT = os.environ.get("EMU_STRICT") == "1"
"""Let what is unforeseen end in a traceback: for tests and fuzzing."""


def place_of(error: BaseException) -> str:
    """Return what an unforeseen error is and where in `emu` it came from, in one line:
    `KeyError in emu/rtld/close.py:40`.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    path = trace.tb_frame.f_code.co_filename
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"{type(error).__name__} in {path.removeprefix(root + os.sep)}:{trace.tb_lineno}"
