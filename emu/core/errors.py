"""Errors that `emu` raises about its input, each with the exit code that the command line ends with.

A guest's own failure is never one of these: it is an exit code or a signal of the guest.
"""

from __future__ import annotations

EXIT_USAGE = 2
EXIT_FINDINGS = 1
EXIT_TIMEOUT = 124
EXIT_EMU = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_LOADER = 127


class EmuError(Exception):
    """Base of all errors that `emu` reports in one line instead of a traceback."""

    exit_code = EXIT_EMU


class ElfError(EmuError):
    """A file is not what an ELF object must be.

    `object_name` is the path or name as the user knows it, `reason` the words that ld.so has for it, where it has any.
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
    """ld.so's last words, complete, with the program's name in front: shown as they stand."""

    def __init__(self, text: str, exit_code: int = EXIT_LOADER) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class UnsupportedError(EmuError):
    """Something that exists in the field but not in `emu`: a relocation type, an instruction, a syscall, an ELF field.

    `thing` names it, `where` the object (and offset) that it is in.
    """

    def __init__(self, thing: str, where: str, hint: str = "") -> None:
        super().__init__(f"{where}: unsupported {thing}" + (f"; {hint}" if hint else ""))
        self.thing = thing
        self.where = where


class ProgramError(EmuError):
    """The program named on the command line cannot be started (missing, not executable, not x86-64)."""

    exit_code = EXIT_NOT_EXECUTABLE

    def __init__(self, message: str, exit_code: int = EXIT_NOT_EXECUTABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunTimeout(EmuError):
    """The run took longer than `--timeout`."""

    exit_code = EXIT_TIMEOUT


class MemoryFault(Exception):
    """An access by `emu` itself to guest memory that is not mapped or not permitted.

    The kernel personality turns it into EFAULT; anywhere else it means that the guest's data are broken.
    `access` is "read", "write" or "execute".
    """

    def __init__(self, address: int, access: str) -> None:
        super().__init__(f"{access} of {address:#x}")
        self.address = address
        self.access = access
