"""Where the debugging information of a libc is:
with the system that it belongs to, on the host, or fetched before.

By build ID as every distribution has it, by path as in Debian's libc6-dbg up to 11, in the cache of
debuginfod's client; and where DEBUGINFOD_URLS is set, that client is asked.

Source: gdb manual "Separate Debug Files"; debuginfod-find(1), debuginfod-client-config(7).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.core.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.core.files import FileSystem

_FOLDER = "/usr/lib/debug"
_FETCH_SECONDS = 300
_PACKAGES = (
    (("debian", "ubuntu"), "libc6-dbg (apt-get install libc6-dbg)"),
    (("fedora", "rhel", "centos"), "glibc-debuginfo (dnf debuginfo-install glibc)"),
    (("suse", "opensuse"), "glibc-debuginfo (zypper install glibc-debuginfo)"),
    (("arch",), "glibc-debug (of the debug repositories)"),
)


class DebugSystem:
    """A system whose files are asked for: the guest's file system, over a root directory of the host."""

    def __init__(self, files: FileSystem, sysroot: str) -> None:
        self.files, self.sysroot = files, sysroot

    def host_path(self, path: str) -> str:
        """Return where a file of the guest is on the host, its links followed inside the root.

        Raises OSError.
        """
        return os.path.join(self.sysroot, self.files.realpath(path).lstrip("/"))

    def package(self) -> str:
        """Name the package with libc's debug files, as this distribution calls it;
        "" where that is not known.
        """
        try:
            with open(self.host_path("/etc/os-release"), encoding="utf-8", errors="replace") as file:
                pairs = (line.strip().partition("=") for line in file)
                about = {name: value.strip("\"'") for name, _, value in pairs}
        except OSError:
            multiarch = self.files.is_directory("/usr/lib/x86_64-linux-gnu")
            about = {"ID": "debian" if multiarch else ""}
        words = f"{about.get('ID', '')} {about.get('ID_LIKE', '')}".split()
        return next((package for names, package in _PACKAGES if any(name in words for name in names)), "")


def find_debug_file(system: DebugSystem, path: str) -> str | None:
    """Return the host path of the file with the debugging information of the guest's `path` (perhaps itself),
    None where there is none.

    Raises OSError, ElfError for a `path` that cannot be read.
    """
    from emu.elf.debug_file import build_id_of, has_debug_info

    binary = system.host_path(path)
    if has_debug_info(binary):
        return binary
    build_id = build_id_of(binary)
    if not build_id:
        raise ElfError(path, "it has no build ID by which its debug file could be found")
    for candidate in _candidates(system, path, build_id):
        try:
            if build_id_of(candidate) == build_id and has_debug_info(candidate):
                return candidate
        except (OSError, ElfError):
            continue  # not there, or something else under that name
    return _fetch(build_id)


def _candidates(system: DebugSystem, path: str, build_id: str) -> Iterator[str]:
    by_id = f"{_FOLDER}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    real = system.files.realpath(path)
    for guest in (by_id, f"{_FOLDER}{real}", f"{_FOLDER}{real.removeprefix('/usr')}"):
        try:
            yield system.host_path(guest)
        except OSError:
            continue
    yield by_id
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for folder in (
        os.environ.get("DEBUGINFOD_CACHE_PATH", ""),
        os.path.join(cache, "debuginfod_client"),
        os.path.expanduser("~/.debuginfod_client_cache"),
    ):
        if folder:
            yield os.path.join(folder, build_id, "debuginfo")


def _fetch(build_id: str) -> str | None:
    """Ask the servers of DEBUGINFOD_URLS, by elfutils' client, which keeps what it gets in its own cache."""
    import shutil  # late, both: no start-up needs them
    import subprocess

    client = shutil.which("debuginfod-find")
    if client is None or not os.environ.get("DEBUGINFOD_URLS"):
        return None
    try:
        done = subprocess.run(
            [client, "debuginfo", build_id],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_FETCH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout).strip() or None if done.returncode == 0 else None
