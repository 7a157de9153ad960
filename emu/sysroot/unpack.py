"""Write the members of a tar archive below a root, whatever they say.

Python's own extraction refuses absolute links (`filter="data"`), which every distribution has, or follows
them out of the root (`filter="tar"`). Here each member's folder is followed inside of the root
(`inside.resolve`) and the member itself made anew, so nothing outside can be reached.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import tarfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from emu.core.errors import SysrootError
from emu.sysroot.inside import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

_LATEST = 1 << 33
"""A time of modification beyond this (the year 2242) is damage."""
_MOST_BYTES, _MOST_MEMBERS, _DEEPEST = 64 << 30, 1 << 19, 255
"""What an archive may unpack to, and how deep its folders may be."""
_EXTENDED_SIZE = 1 << 20
"""How long a header for one name or the like may be."""
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class Member(tarfile.TarInfo):
    """A member of an archive that nobody vouches for: no number in its header is believed."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        """Read one header. Raises tarfile.ReadError for what says that it is larger than anything is."""
        found = super().frombuf(buf, encoding, errors)
        if found.size > (_EXTENDED_SIZE if found.type in _EXTENDED else _MOST_BYTES):
            raise tarfile.ReadError(f"{found.name!r} has {found.size} bytes")
        return found

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Member:
        """Read the next member. Raises tarfile.ReadError where the archive goes on for too long."""
        if tarfile.offset > _MOST_BYTES:
            raise _too_much()
        return super().fromtarfile(tarfile)


def _too_much() -> tarfile.ReadError:
    return tarfile.ReadError(f"more than {_MOST_BYTES >> 30} GiB or {_MOST_MEMBERS} members")


def open_archive(path: str | None = None, content: IO[bytes] | None = None) -> tarfile.TarFile:
    """Return the archive at a path, or in an open file, for reading. Raises tarfile.TarError, OSError."""
    return tarfile.open(path, fileobj=content, tarinfo=Member)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """An archive that is no archive, or is cut off, is an error that names it."""
    try:
        yield
    except (
        tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        # tarfile lists on further lines what each of its readers found.
        why = str(error).partition(":\n")[0]
        raise SysrootError(f"{name}: not a tar archive, damaged or cut off ({why})") from None
    except OSError as error:
        # gzip's and bz2's complaints have no number.
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a place in the file that no file has
            raise
        raise SysrootError(f"{name}: not a tar archive, damaged or cut off ({error})") from None


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members. Raises tarfile.ReadError for too many of them."""
    for number, member in enumerate(archive):
        if number >= _MOST_MEMBERS:
            raise _too_much()
        yield member


class Unpacker:
    """Unpacks archives into `root`, one over the other; `name` is what messages call the source.

    With `keep_links` a folder that meets a symbolic link to a folder goes to where that leads (packages
    onto a merged /usr); without, it takes the link's place (layers of an image). Set-id bits, owners and
    special files are left out: nobody executes these files.
    """

    def __init__(self, root: str, name: str, *, keep_links: bool) -> None:
        self.root, self.name, self._keep_links = root, name, keep_links
        self.special = 0
        """How many devices, FIFOs and the like were left out."""
        self._bytes = 0

    def unpack(self, archive: tarfile.TarFile) -> None:
        """Write all members. Raises SysrootError for one that wants to be outside, OSError from the host."""
        for member in members_of(archive):
            self.write(archive, member)

    def write(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Write one member. Raises as `unpack`."""
        path = self.clean(member.name)
        if not path:
            return
        if member.isdir():
            self._folder(path, member.mode)
        elif member.issym():
            os.symlink(member.linkname, self._place(path))
        elif member.islnk():
            self._hard_link(path, member)
        elif member.isreg():
            self._file(path, archive, member)
        else:
            self.special += 1

    def clean(self, name: str) -> str:
        """Return a member's name without a leading slash. Raises SysrootError where it has `..` in it."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise SysrootError(f"{self.name}: its member {name!r} leads out of it")
        return "/".join(parts)

    def delete(self, path: str) -> None:
        """Delete what a member's path names, if it is there."""
        host = self._host(path)
        if os.path.isdir(host) and not os.path.islink(host):
            shutil.rmtree(host)
        elif os.path.lexists(host):
            os.unlink(host)

    def empty(self, path: str) -> None:
        """Delete what is in the folder of that path, if there is one."""
        host = self._host(path) if path else self.root
        if os.path.isdir(host) and not os.path.islink(host):
            for name in os.listdir(host):
                self.delete(f"{path}/{name}")

    def _host(self, path: str) -> str:
        """Return where a member belongs: its folder followed, its own name not."""
        parent, _, name = path.strip("/").rpartition("/")
        host = os.path.join(resolve(self.root, parent), name)
        if host.count("/") - self.root.count("/") > _DEEPEST:
            raise SysrootError(
                f"{self.name}: its member {path[:80]!r}... is more than {_DEEPEST} folders deep"
            )
        return host

    def _place(self, path: str) -> str:
        """Return the host path for a new member, with its folder there and its name free."""
        host = self._host(path)
        parent = os.path.dirname(host)
        try:
            os.makedirs(parent, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise SysrootError(
                f"{self.name}: its member {path!r} is below something that is no folder"
            ) from None
        self.delete(path)
        return host

    def _folder(self, path: str, mode: int) -> None:
        host = self._host(path)
        if self._keep_links and os.path.islink(host):
            host = resolve(self.root, path)
            os.makedirs(host, exist_ok=True)
        elif os.path.islink(host) or not os.path.isdir(host):
            os.mkdir(self._place(path))
        os.chmod(host, mode & 0o777 | 0o700)

    def _hard_link(self, path: str, member: tarfile.TarInfo) -> None:
        target = self._host(self.clean(member.linkname))
        if not os.path.lexists(target) or os.path.isdir(target) and not os.path.islink(target):
            raise SysrootError(
                f"{self.name}: its member {path!r} is a hard link to {member.linkname!r}, which is not there"
            )
        host = self._host(path)
        if os.path.lexists(host) and os.path.samestat(os.lstat(host), os.lstat(target)):
            return
        os.link(target, self._place(path), follow_symlinks=False)

    def _file(self, path: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._bytes += max(member.size, 0)
        if self._bytes > _MOST_BYTES:
            raise _too_much()
        if member.size > shutil.disk_usage(self.root).free:
            raise SysrootError(
                f"{self.name}: no room on the disk for its member {member.name!r} ({member.size} bytes)"
            )
        content = archive.extractfile(member)
        assert content is not None
        host = self._place(path)
        # O_EXCL: made here and now, never opened through a link.
        descriptor = os.open(host, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
            os.fchmod(descriptor, member.mode & 0o777 | 0o600)
        time = int(min(max(member.mtime, 0), _LATEST))  # ValueError for a NaN
        os.utime(host, (time, time))
