"""Is this a system that dynamic programs can run in? Its ld.so, its libc, and whether the two belong
together.

Files only: nothing is executed, and links are followed inside of the sysroot.
"""

from __future__ import annotations

import glob
import mmap
import os
import re
from typing import TYPE_CHECKING

from emu.core.errors import ElfError, SysrootError
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.dynamic import Dynamic, read_dynamic
from emu.elf.header import ForeignObjectError, check_complete, parse_ehdr, parse_phdrs
from emu.elf.image import FileImage
from emu.elf.machines import machine_of, name_of
from emu.elf.strtab import StringTable
from emu.elf.versions import version_defs, version_needs
from emu.sysroot.inside import resolve, shown

if TYPE_CHECKING:
    from emu.elf.header import Phdr

INTERPRETER = "/lib64/ld-linux-x86-64.so.2"
"""The name that programs have for ld.so (psABI 5.2.1)."""

DIRECTORIES = (
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
"""Where distributions keep libc, beside ld.so's own folder."""

_RELEASE = b" release version 2."
_RELEASE_LINE = re.compile(rb"(?:\(([^()\n]+)\) )?\w+ release version (2\.\d+)")


class Glibc(NamedTuple):
    """The C library of a sysroot: `version` such as 2.36, `package` as its builder names it, both paths as
    the guest has them.
    """

    version: str
    package: str
    ld_so: str
    libc: str


class _Object(NamedTuple):
    """An ELF file of the sysroot, read as far as versions go."""

    data: mmap.mmap
    image: FileImage
    phdrs: list[Phdr]
    dynamic: Dynamic
    strings: StringTable
    name: str


def inspect(root: str, name: str | None = None) -> Glibc:
    """Return which glibc the sysroot in folder `root` has; `name` is what messages call it.

    Raises SysrootError where there is none, for another machine, for files that are cut off or links that
    lead nowhere, and for an ld.so that does not belong to the libc beside it.
    """
    name = root if name is None else name
    real = os.path.realpath(root)
    if not os.path.isdir(real):
        raise SysrootError(f"{name}: not a folder" if os.path.exists(real) else f"{name}: no such folder")
    try:
        ld_so = _file(real, INTERPRETER, name)
        if ld_so is None:
            raise SysrootError(f"{name}: {_why_no_glibc(real)}")
        libc = _find_libc(real, ld_so, name)
        linker, library = _read(real, ld_so, name), _read(real, libc, name)
        return _pair(linker, library, name)
    except OSError as error:
        raise SysrootError(f"{name}: {error.filename}: {error.strerror}") from None


def libc_of(root: str, name: str) -> tuple[str, str]:
    """Return version and package of the system's libc, for another libc its name and nothing.

    Raises SysrootError as `inspect` does, but not for musl, whose programs run with `--ldso real`.
    """
    musl = _musl(os.path.realpath(root))
    if musl and not os.path.lexists(resolve(os.path.realpath(root), INTERPRETER)):
        return "musl", ""
    found = inspect(root, name)
    return found.version, found.package


def _musl(root: str) -> str:
    """Return the name of musl's dynamic linker, empty where there is none."""
    return "/lib/ld-musl-x86_64.so.1" if os.path.exists(resolve(root, "/lib/ld-musl-x86_64.so.1")) else ""


def _file(root: str, path: str, name: str) -> str | None:
    """Return the host path of a guest's file, None where nothing has that name; a link to nowhere is an
    error.
    """
    host = resolve(root, path)
    if os.path.isfile(host):
        return host
    if os.path.islink(resolve(root, path, follow=False)):
        raise SysrootError(f"{name}: half unpacked: {path} leads to {shown(root, host)}, which is not there")
    return None


def _find_libc(root: str, ld_so: str, name: str) -> str:
    for folder in (os.path.dirname(shown(root, ld_so)), *DIRECTORIES):
        found = _file(root, f"{folder}/libc.so.6", name)
        if found is not None:
            return found
    raise SysrootError(f"{name}: no libc.so.6 in it, but {shown(root, ld_so)}: half unpacked")


def _why_no_glibc(root: str) -> str:
    """Say what there is in place of glibc for x86-64."""
    if musl := _musl(root):
        return f"its libc is musl ({musl}), not glibc: its programs run with --ldso real"
    for pattern in (
        "/lib/ld-linux*.so.*",
        "/lib64/ld*.so.*",
        "/lib/ld64.so.*",
        "/lib/ld-musl-*.so.1",
        "/lib/ld.so.1",
    ):
        folder, _, wanted = pattern.rpartition("/")
        for host in sorted(glob.glob(os.path.join(glob.escape(resolve(root, folder)), wanted))):
            found = f"{folder}/{os.path.basename(host)}"
            return f"of another machine: its ld.so is {found}{_machine(resolve(root, found))}"
    for folder in DIRECTORIES:
        if os.path.lexists(resolve(root, f"{folder}/libc.so.6")):
            return f"{folder}/libc.so.6 is there, but no {INTERPRETER}: half unpacked, or of another machine"
    return f"neither {INTERPRETER} nor a libc.so.6 in it: not a system with glibc"


def _machine(host: str) -> str:
    """Return `, NAME` for an ELF file's machine; nothing where it cannot be told."""
    try:
        with open(host, "rb") as file:
            head = file.read(20)
    except OSError:
        return ""
    if len(head) < 20 or head[:4] != c.ELFMAG:
        return ""
    return f", {name_of(machine_of(head))}"


def _read(root: str, host: str, name: str) -> _Object:
    path = shown(root, host)
    with open(host, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise SysrootError(f"{name}: half unpacked: {path} is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        ehdr = parse_ehdr(data, path)
        phdrs = parse_phdrs(data, ehdr, path)
        check_complete(phdrs, size, path)
        image = FileImage(data, phdrs, path)
        entry = next((phdr for phdr in phdrs if phdr.type == c.PT_DYNAMIC), None)
        if entry is None:
            raise ElfError(path, "no dynamic section")
        dynamic = Dynamic(read_dynamic(image, entry.vaddr, path), path)
        strings = StringTable(image.read(*dynamic.table(c.DT_STRTAB)), path)
    except ForeignObjectError as error:
        raise SysrootError(
            f"{name}: of another machine: {path}{_machine(host) or f': {error.reason}'}"
        ) from None
    except ElfError as error:
        raise SysrootError(f"{name}: {path} is damaged or cut off: {error.reason}") from None
    return _Object(data, image, phdrs, dynamic, strings, path)


def _pair(ld_so: _Object, libc: _Object, name: str) -> Glibc:
    """Check that ld.so and libc come from one build, as far as the two files tell."""
    release = _release(libc)
    if release is None:
        raise SysrootError(f"{name}: {libc.name} is not glibc's: no release version in it")
    own = _release(ld_so)
    # Before 2.33 ld.so does not say its release.
    if own is not None and own != release:
        raise SysrootError(
            f"{name}: {ld_so.name} ({_words(own)}) does not belong to {libc.name} ({_words(release)})"
        )
    missing = sorted(_needs(libc, os.path.basename(INTERPRETER)) - _defines(ld_so))
    if missing:
        raise SysrootError(
            f"{name}: {ld_so.name} does not belong to {libc.name}, which needs its version {missing[0]}"
        )
    package, version = release
    return Glibc(version, package, ld_so.name, libc.name)


def _words(release: tuple[str, str]) -> str:
    package, version = release
    return package or f"glibc {version}"


def _release(found: _Object) -> tuple[str, str] | None:
    """Return the builder's name and the number in an object's version text, None where there is no such
    text.
    """
    at = found.data.find(_RELEASE)
    match = _RELEASE_LINE.search(found.data, max(0, at - 100), at + 30) if at >= 0 else None
    if match is None:
        return None
    return os.fsdecode(match[1] or b""), match[2].decode()


def _needs(found: _Object, file: str) -> set[str]:
    needs = version_needs(found.image, found.dynamic, found.strings, found.name)
    return {os.fsdecode(need.name) for need in needs if os.fsdecode(need.file) == file}


def _defines(found: _Object) -> set[str]:
    definitions = version_defs(found.image, found.dynamic, found.strings, found.name)
    return {os.fsdecode(definition.name) for definition in definitions}
