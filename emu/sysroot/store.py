"""Sysroots by name, in the user's cache: XDG_CACHE_HOME/emu/sysroots/NAME with `about.json` and, where it
was unpacked here, `root/`.

A sysroot appears under its name with one rename when it is whole and has passed `inspect`; what an
interrupted `add` left is swept away by the next.
Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import SysrootError
from emu.core.record import NamedTuple
from emu.core.text import printable
from emu.sysroot.inspect import libc_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RELEASES = {
    "11": "bullseye",
    "12": "bookworm",
    "13": "trixie",
    "unstable": "sid",
    "experimental": "experimental",
}
"""What `debian:` may be followed by, and the suite it is; a suite's own name does as well."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@-]{0,99}")
_ABOUT = "about.json"
_UNFINISHED = ".unfinished-"


class Sysroot(NamedTuple):
    """A named sysroot: its folder on the host, what it was made from, its libc
    (glibc's version, or `musl`) and that one's package.
    """

    name: str
    root: str
    source: str
    libc: str
    package: str


def folder() -> str:
    """Return where the named sysroots are, whether or not it is there yet."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The specification wants relative paths ignored.
    if not os.path.isabs(cache):
        cache = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "emu", "sysroots")


def suite_of(word: str) -> str | None:
    """Return the suite that `debian:RELEASE` names, None for another word. Raises SysrootError for a
    release that is not known.
    """
    distribution, colon, release = word.partition(":")
    if distribution != "debian" or not colon:
        return None
    suite = RELEASES.get(release, release)
    if suite not in RELEASES.values():
        known = ", ".join(
            f"{number} ({suite})" if number != suite else suite for number, suite in RELEASES.items()
        )
        raise SysrootError(f"{word}: no such release of Debian; known are {known}")
    return suite


def canonical(word: str) -> str:
    """Return the one name that a release of Debian is kept under: `debian:trixie` is `debian:13`. Other
    words stay as they are.
    """
    suite = suite_of(word)
    if suite is None:
        return word
    return "debian:" + next(number for number, name in RELEASES.items() if name == suite)


def sysroots() -> list[Sysroot]:
    """Return all named sysroots, by name."""
    try:
        names = sorted(os.listdir(folder()))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SysrootError(f"{folder()}: {error.strerror}") from None
    return [found for name in names if _NAME.fullmatch(name) and (found := find(name)) is not None]


def find(name: str) -> Sysroot | None:
    """Return the sysroot of that name, None if there is none. Raises SysrootError where its notes cannot
    be read.
    """
    if not _NAME.fullmatch(name):
        return None
    place = os.path.join(folder(), canonical(name))
    about = os.path.join(place, _ABOUT)
    try:
        with open(about, encoding="utf-8") as file:
            notes = json.load(file)
        root = notes["root"] or os.path.join(place, "root")
        return Sysroot(canonical(name), root, notes["source"], notes["libc"], notes["package"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SysrootError(
            f"sysroot {name}: {about} cannot be read ({error}); remove it and add it again"
        ) from None


def resolve(word: str) -> str:
    """Return the folder that `--sysroot WORD` means: an existing folder, or a sysroot's name.

    Raises SysrootError when it is neither.
    """
    if word and os.path.isdir(word):
        return word
    found = None if "/" in word else find(word)
    if found is None:
        raise SysrootError(f"sysroot {word}: {_neither(word)}")
    if not os.path.isdir(found.root):
        raise SysrootError(f"sysroot {word}: its folder {found.root} is gone")
    return found.root


def _neither(word: str) -> str:
    if "/" in word or not word:
        return "not a folder" if os.path.exists(word) else "no such folder"
    if suite_of(word) is not None:
        return f"not there yet; make it with: emu sysroot add {word}"
    names = ", ".join(known.name for known in sysroots())
    return f"neither a folder nor the name of a sysroot ({f'there are {names}' if names else 'there is none: see emu sysroot --help'})"


def check_name(name: str) -> None:
    """Raise SysrootError where `name` cannot be a sysroot's name."""
    if not _NAME.fullmatch(name):
        raise SysrootError(
            f"{printable(name)}: a sysroot's name is of letters, digits and ._:+@-, beginning with one of the former"
        )


def add_folder(name: str, path: str) -> Sysroot:
    """Give a name to an existing folder, which stays where it is. Raises SysrootError."""
    root = os.path.realpath(path)
    libc, package = libc_of(root, path)
    with _making(name) as place:
        _note(place, root, root, libc, package)
    return _added(name)


def add(name: str, source: str, make: Callable[[str], None]) -> Sysroot:
    """Let `make` fill an empty folder and keep it as `name`, made from `source`; nothing stays when it fails.

    Raises SysrootError; also when the result is no system with glibc.
    """
    with _making(name) as place:
        root = os.path.join(place, "root")
        os.mkdir(root)
        make(os.path.realpath(root))
        libc, package = libc_of(root, source)
        _note(place, "", source, libc, package)
    return _added(name)


def remove(name: str) -> None:
    """Forget a sysroot and delete what was unpacked for it; a folder that only has a name is left alone.
    Raises SysrootError.
    """
    place = os.path.join(folder(), canonical(name))
    if not _NAME.fullmatch(name) or not os.path.isdir(place):
        raise SysrootError(f"{name}: no such sysroot (see emu sysroot list)")
    with _locked(), _failing(name):
        # First out of sight, then away: an interrupted removal leaves no half of a sysroot under the name.
        going = tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder())
        os.rename(place, os.path.join(going, "old"))
        _delete(going)


def _added(name: str) -> Sysroot:
    found = find(name)
    assert found is not None
    return found


def _note(place: str, root: str, source: str, libc: str, package: str) -> None:
    with open(os.path.join(place, _ABOUT), "w", encoding="utf-8") as file:
        json.dump({"root": root, "source": source, "libc": libc, "package": package}, file, indent=2)


@contextmanager
def _making(name: str) -> Iterator[str]:
    """A folder that becomes the sysroot `name` at the end, if nothing was raised."""
    check_name(name)
    final = os.path.join(folder(), canonical(name))
    with _failing(name):
        os.makedirs(folder(), exist_ok=True)
    with _locked(), _failing(name):
        if os.path.lexists(final):
            raise SysrootError(
                f"{name}: there is a sysroot of this name; remove it first: emu sysroot remove {name}"
            )
        for left in os.listdir(folder()):
            if left.startswith(_UNFINISHED):
                _delete(os.path.join(folder(), left))
        place = tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder())
        try:
            yield place
            os.chmod(place, 0o755)
            os.rename(place, final)
        except BaseException:  # Ctrl-C, too: nothing half made stays; it is raised again
            _delete(place)
            raise


@contextmanager
def _failing(name: str) -> Iterator[None]:
    """What the host refuses (a full disk, permissions) is an error about the sysroot."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise SysrootError(f"{name}: {what}{error.strerror or error}") from None


@contextmanager
def _locked() -> Iterator[None]:
    """One `add` or `remove` at a time. Raises SysrootError where another one is at work."""
    with open(os.path.join(folder(), ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SysrootError("another `emu sysroot` is at work; try again when it has finished") from None
        yield


def _delete(place: str) -> None:
    """Delete a tree; the folders of an image may be such that their owner cannot write into them."""
    for parent, folders, _ in os.walk(place):
        for name in folders:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(place)
