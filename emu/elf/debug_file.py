"""Where an object's debugging information is: in the object, or in a separate file.

Source: gdb manual "Separate Debug Files".
"""

from __future__ import annotations

import mmap
import os
from typing import IO, Any, cast

from emu.core.errors import ElfError
from emu.elf.notes import build_id, parse_notes

_DEBUG_DIRECTORY = "usr/lib/debug"


def open_elf(path: str) -> Any:
    """Return pyelftools' ELFFile over a host file, mapped. Raises OSError, ElfError."""
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        # An empty file cannot be mapped.
        if os.fstat(file.fileno()).st_size == 0:
            raise ElfError(path, "file too short")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return ELFFile(cast("IO[bytes]", content))


def section(elf: Any, name: str) -> Any:
    """Return a section of an ELFFile by name, or None."""
    return elf.get_section_by_name(name)


def separate_file(elf: Any, path: str, root: str) -> str | None:
    """Return the host path of the separate debug file, or None when there is none."""
    note = section(elf, ".note.gnu.build-id")
    if note is not None and note["sh_type"] == "SHT_NOTE":
        digits = (build_id(parse_notes(note.data(), note["sh_addralign"], path)) or b"").hex()
        if len(digits) > 2:
            found = os.path.join(root, _DEBUG_DIRECTORY, ".build-id", digits[:2], digits[2:] + ".debug")
            if os.path.isfile(found):
                return found
    link = section(elf, ".gnu_debuglink")
    if link is None:
        return None
    content = link.data()
    name = os.fsdecode(content.partition(b"\0")[0])
    checksum = int.from_bytes(content[-4:], "little")
    directory = os.path.dirname(os.path.abspath(path))
    in_root = os.path.relpath(directory, root)
    for candidate in (
        os.path.join(directory, name),
        os.path.join(directory, ".debug", name),
        os.path.join(root, _DEBUG_DIRECTORY, in_root, name),
    ):
        if os.path.isfile(candidate) and _crc32(candidate) == checksum:
            return candidate
    return None


def _crc32(path: str) -> int:
    import zlib

    with open(path, "rb") as file:
        return zlib.crc32(file.read())
