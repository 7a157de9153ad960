"""Where an object's debugging information is: in the object, or in a separate file.

What a file says of another one is looked up inside `root` (the sysroot, or the host where there is none) and
nowhere else: no link and no `..` leads out of it. No size that a file gives is believed before it has been
held against the file's own.

Source: gdb manual "Separate Debug Files"; gABI chapter 4 "Compressed Sections".
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import IO, Any, cast

from emu.core.errors import ElfError
from emu.elf.constants import ELFMAG, SHDR_SIZE
from emu.elf.notes import build_id, parse_notes
from emu.elf.pyelf import malformed

_DEBUG_DIRECTORY = "usr/lib/debug"
_LINKS = 40
_PIECE = 1 << 20
MOST_DECOMPRESSED = 1 << 29
"""The most bytes that a compressed section may have when it is not."""
_MOST_DEBUG = 1 << 33
"""The most bytes of a debug file: a browser's has two to three GiB."""
_CHDR_SIZE = 24


def open_elf(path: str) -> Any:
    """Return pyelftools' ELFFile over a host file, mapped. Raises OSError, ElfError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return _elf_file(descriptor, path)
    finally:
        os.close(descriptor)


def _elf_file(descriptor: int, path: str) -> Any:
    from elftools.elf.elffile import ELFFile

    st = os.fstat(descriptor)
    if not stat.S_ISREG(st.st_mode):
        raise ElfError(path, "not a regular file")
    if st.st_size == 0:  # an empty file cannot be mapped
        raise ElfError(path, "file too short")
    content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    elf = ELFFile(cast("IO[bytes]", content))
    if elf["e_shoff"] and elf["e_shoff"] + elf.num_sections() * SHDR_SIZE > st.st_size:
        raise ElfError(path, f"{elf.num_sections()} section headers pass the end of the file")
    return elf


def section(elf: Any, name: str) -> Any:
    """Return a section of an ELFFile by name, or None."""
    return elf.get_section_by_name(name)


def content(found: Any, path: str) -> bytes:
    """Return the bytes of a section, decompressed; none for one that has none in the file.

    Raises ElfError for one that passes the end of the file, or gets larger than it says or than
    MOST_DECOMPRESSED.
    """
    offset, size = found["sh_offset"], found["sh_size"]
    if found["sh_type"] == "SHT_NOBITS" or not size:
        return b""
    stream = found.stream
    if offset + size > stream.size():
        raise ElfError(path, f"section {found.name} passes the end of the file")
    if not found.compressed:
        return bytes(stream[offset : offset + size])
    if found.header["sh_size"] < _CHDR_SIZE or found.data_size > MOST_DECOMPRESSED:
        raise ElfError(path, f"compressed section {found.name} of {found.data_size:#x} bytes")
    if found._compression_type != "ELFCOMPRESS_ZLIB":
        raise ElfError(path, f"section {found.name}: compression {found._compression_type!r}")
    import zlib

    inflated = zlib.decompressobj().decompress(
        stream[offset + _CHDR_SIZE : offset + size], found.data_size + 1
    )
    if len(inflated) != found.data_size:
        raise ElfError(
            path, f"compressed section {found.name} has not the {found.data_size:#x} bytes that it says"
        )
    return inflated


def separate_file(elf: Any, path: str, root: str) -> tuple[Any, str] | None:
    """Return the separate debug file of an object as an ELFFile, and its path on the host;
    None when there is none.

    Last comes the cache of debuginfod's clients on this machine, where DEBUGINFOD_URLS is set; nothing is
    fetched.
    Raises ElfError for one that is malformed.
    """
    directory = os.path.join(
        "/", os.path.relpath(os.path.dirname(os.path.abspath(path)), os.path.realpath(root))
    )
    for candidate, checksum in _candidates(elf, path, directory):
        opened = _open_inside(root, candidate)
        if opened is None:
            continue
        try:
            if checksum is None or _may_be_elf(opened) and _crc32(opened) == checksum:
                host = os.path.join(root, candidate.lstrip("/"))
                return _elf_file(opened, host), host
        finally:
            os.close(opened)
    return _from_debuginfod(build_id_in(elf, path))


def _from_debuginfod(digits: str) -> tuple[Any, str] | None:
    """Return what a client of debuginfod has fetched for a build ID. Source:
    debuginfod_find_debuginfo(3), FILES and ENVIRONMENT VARIABLES.
    """
    environ = os.environ
    if not digits or not environ.get("DEBUGINFOD_URLS"):
        return None
    home = os.path.expanduser("~")
    places = [environ["DEBUGINFOD_CACHE_PATH"]] if environ.get("DEBUGINFOD_CACHE_PATH") else [
        os.path.join(home, ".debuginfod_client_cache"),
        os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "debuginfod_client"),
    ]  # fmt: skip
    for place in places:
        found = os.path.join(place, digits, "debuginfo")
        # A file of no bytes says that no server had it.
        if os.path.isfile(found) and os.path.getsize(found):
            return open_elf(found), found
    return None


def mini_debuginfo(elf: Any, path: str) -> Any:
    """Return the ELFFile in .gnu_debugdata (functions that .dynsym lacks, xz-compressed), None without one.

    Raises ElfError if it is malformed.

    Source: gdb manual "Debugging information in a special section".
    """
    found = section(elf, ".gnu_debugdata")
    if found is None:
        return None
    import io
    import lzma

    from elftools.elf.elffile import ELFFile

    decompressor = lzma.LZMADecompressor(memlimit=MOST_DECOMPRESSED)
    try:
        data = decompressor.decompress(content(found, path), MOST_DECOMPRESSED)
    except lzma.LZMAError as error:
        raise ElfError(path, f".gnu_debugdata: {error}") from None
    if not decompressor.eof:
        raise ElfError(path, ".gnu_debugdata is cut off, or larger than anything that is read")
    return ELFFile(io.BytesIO(data))


def _candidates(elf: Any, path: str, directory: str) -> list[tuple[str, int | None]]:
    """Return paths inside the root at which a debug file may be, and the checksum
    that it must have if it is found by its name.
    """
    found: list[tuple[str, int | None]] = []
    if len(digits := build_id_in(elf, path)) > 2:
        found.append((f"/{_DEBUG_DIRECTORY}/.build-id/{digits[:2]}/{digits[2:]}.debug", None))
    link = section(elf, ".gnu_debuglink")
    if link is not None:
        data = content(link, path)
        name = os.fsdecode(data.partition(b"\0")[0])
        if name and "/" not in name and name not in (".", ".."):  # a name, and no path
            checksum = int.from_bytes(data[-4:], "little")
            below = f"/{_DEBUG_DIRECTORY}{directory}"
            found += [(f"{place}/{name}", checksum) for place in (directory, f"{directory}/.debug", below)]
    return found


def _open_inside(root: str, path: str) -> int | None:
    """Open a regular file below the host directory `root`, as if that were `/`; None where there is none.

    Each name is opened in the directory before it, and links are followed here: an absolute one begins at
    `root` again, `..` stops there.
    Source: path_resolution(7); openat2(2) (RESOLVE_IN_ROOT), which Python does not offer.
    """
    todo = [name for name in reversed(path.split("/")) if name not in ("", ".")]
    links = 0
    try:
        walked = [os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    except OSError:
        return None
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if len(walked) > 1:
                    os.close(walked.pop())
                continue
            try:
                target = os.readlink(name, dir_fd=walked[-1])
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: no link
                    return None
                flags = os.O_NOFOLLOW | os.O_CLOEXEC
                if not todo:
                    return _regular(os.open(name, flags | os.O_RDONLY | os.O_NONBLOCK, dir_fd=walked[-1]))
                walked.append(os.open(name, flags | os.O_PATH | os.O_DIRECTORY, dir_fd=walked[-1]))
                continue
            links += 1
            if links > _LINKS:
                return None
            if target.startswith("/"):
                while len(walked) > 1:
                    os.close(walked.pop())
            todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return None
    except (OSError, ValueError):  # a file that is not there or not ours to read; a NUL in a name
        return None
    finally:
        for descriptor in walked:
            os.close(descriptor)


def _regular(descriptor: int) -> int | None:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _may_be_elf(descriptor: int) -> bool:
    """Whether it is worth to read a whole file for its checksum."""
    return os.fstat(descriptor).st_size <= _MOST_DEBUG and os.pread(descriptor, 4, 0) == ELFMAG


def _crc32(descriptor: int) -> int:
    import zlib

    value = offset = 0
    while piece := os.pread(descriptor, _PIECE, offset):
        value = zlib.crc32(piece, value)
        offset += len(piece)
    return value


def has_debug_info(path: str) -> bool:
    """Whether a host file has DWARF itself. Raises OSError, ElfError."""
    with malformed(path, "ELF content"):
        found = section(open_elf(path), ".debug_info")
        return found is not None and found["sh_type"] != "SHT_NOBITS"


def build_id_of(path: str) -> str:
    """Return the build ID of a host file in hexadecimal digits, "" without one. Raises OSError, ElfError."""
    with malformed(path, "ELF content"):
        return build_id_in(open_elf(path), path)


def build_id_in(elf: Any, path: str) -> str:
    """Return the build ID that a file's section has in hexadecimal digits, "" without one."""
    note = section(elf, ".note.gnu.build-id")
    if note is None or note["sh_type"] != "SHT_NOTE":
        return ""
    return (build_id(parse_notes(content(note, path), note["sh_addralign"], path)) or b"").hex()
