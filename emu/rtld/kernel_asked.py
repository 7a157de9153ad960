"""The kernel that an object asks for in its ABI tag, which ld.so looked at up to 2.35: a search goes on
after an object for a later kernel, or for another system.

Source: glibc elf/dl-load.c:open_verify, elf/rtld.c:process_envvars, sysdeps/unix/sysv/linux/dl-sysdep.c, to
2.35.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from emu.core.errors import LoaderError
from emu.elf.constants import EHDR_SIZE, PHDR_SIZE, PT_NOTE
from emu.elf.header import ForeignObjectError, parse_ehdr, parse_phdrs
from emu.elf.notes import wanted_system

if TYPE_CHECKING:
    from emu.core.files import Backing

_LINUX = 0
_PART = re.compile(r"[ \t]*([+-]?)(?:0[xX]([0-9a-fA-F]*)|0([0-7]*)|([1-9][0-9]*))")
_MOST_IN_PART = 254
_MOST_DIGITS = 20
"""More of them, without leading zeroes, are above any part."""
_LEAST_NOTE = 32


def kernel_number(version: str) -> int:
    """Return a version such as "6.1.0" as one number, a byte for each of its three parts; 0 for what is none.

    The first two parts end with a dot or the text, the third with anything. Hexadecimal and octal parts are
    taken, a part above 254 is not.
    """
    number, at = 0, 0
    for place in range(3):
        match = _PART.match(version, at)
        if match is None:
            return 0
        part, at = _part(match), match.end()
        rest = version[at : at + 1]
        if part > _MOST_IN_PART or place < 2 and rest not in ("", "."):
            return 0
        number |= part << (16 - 8 * place)
        if not rest:
            break
        at += 1
    return number


def kernel_text(number: int) -> str:
    """Return the version that `kernel_number` made a number of, such as "Linux 6.1.0"."""
    return f"Linux {number >> 16}.{number >> 8 & 255}.{number & 255}"


def _part(match: re.Match[str]) -> int:
    """Return a part's number; for a negative one, which ld.so takes as unsigned, one that is too large."""
    sign, hexadecimal, octal, decimal = match.groups()
    digits, base = next(
        (text, base) for text, base in ((hexadecimal, 16), (octal, 8), (decimal, 10)) if text is not None
    )
    digits = digits.lstrip("0")
    if len(digits) > _MOST_DIGITS or digits and sign == "-":
        return _MOST_IN_PART + 1
    return int(digits or "0", base)


def known_kernel(own: str, assumed: str) -> int:
    """Return the newest kernel that an object may ask for: `own`, or what LD_ASSUME_KERNEL says if that is
    older.
    """
    known, told = kernel_number(own), kernel_number(assumed)
    return min(known, told) if told else known


def check_kernel(backing: Backing, path: str, kernel: int) -> None:
    """Raise ForeignObjectError for an object whose first ABI tag names a kernel after `kernel`, or
    another system than Linux; LoaderError where the notes cannot be read. The object's headers have been
    checked.
    """
    ehdr = parse_ehdr(backing.pread(EHDR_SIZE, 0), path)
    table = backing.pread(ehdr.phnum * PHDR_SIZE, ehdr.phoff)
    for phdr in parse_phdrs(table, ehdr._replace(phoff=0), path):
        if phdr.type != PT_NOTE or phdr.filesz < _LEAST_NOTE or phdr.align not in (4, 8):
            continue
        if phdr.offset + phdr.filesz > backing.size():
            code = errno.EINVAL if phdr.offset >> 63 else 0
            raise LoaderError(path, "cannot read file data", errno.ENOMEM if phdr.filesz >> 47 else code)
        tag = wanted_system(backing.pread(phdr.filesz, phdr.offset), phdr.align)
        if tag is None:
            continue
        version = tuple(part & 0xFF for part in tag[1:])
        if tag.os != _LINUX:
            raise ForeignObjectError(path, "its ABI tag names another system than Linux", "kernel")
        if version[0] << 16 | version[1] << 8 | version[2] > kernel:
            asked = ".".join(map(str, version))
            raise ForeignObjectError(path, f"its ABI tag asks for Linux {asked}", "kernel")
        return
