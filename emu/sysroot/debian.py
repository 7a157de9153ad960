"""A sysroot of a Debian release, from its packages: apt fetches and checks them, nothing of them is run.

apt works in a folder of its own (sources, lists, status, archives), so the system's own packages and
settings stay as they are. Signatures are checked with Debian's keyring. Source: apt-get(8), apt.conf(5),
sources.list(5), apt-secure(8).
"""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from emu.core.errors import SysrootError
from emu.core.record import NamedTuple
from emu.sysroot.unpack import Unpacker, open_archive, reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PACKAGES = (
    "libc6", "libc6-dbg", "libc6-dev", "libc-bin", "linux-libc-dev", "libstdc++6", "libgcc-s1", "zlib1g", "coreutils", "bash", "grep", "sed",
)  # fmt: skip
"""What a sysroot gets, with all that these depend on: to run C and C++ programs, to question them, to link
against it.
"""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_GLIBC_OF_EXPERIMENTAL = "Package: src:glibc\nPin: release a=experimental\nPin-Priority: 990\n"
"""Experimental is no whole system: what it is asked for is its glibc, in all its packages alike;
the rest is sid's.
Source: apt_preferences(5).
"""
_WITH_SECURITY = ("bullseye", "bookworm", "trixie")
_MERGED = ("bin", "sbin", "lib", "lib64")
_NO_APT = "needs apt-get and dpkg-deb, which are not here; on this system add a root file system or a container image instead: emu sysroot add FILE.tar"


class Source(NamedTuple):
    """Where packages come from: `mirror` and `security` are URLs (the latter may be empty), `signed`
    whether signatures are checked.
    """

    mirror: str
    security: str
    signed: bool = True


def find_source(mirror: str | None, signed: bool) -> Source:
    """Return the mirror to use: `mirror`, or the one that apt on this Debian system is configured for.
    Raises SysrootError.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise SysrootError(f"a release of Debian {_NO_APT}")
    if signed and not os.path.exists(KEYRING):
        raise SysrootError(
            f"{KEYRING} is missing, with which signatures are checked: install the package debian-archive-keyring"
        )
    if mirror is not None:
        mirror = mirror.rstrip("/")
        return Source(mirror, _security(mirror), signed)
    if platform.freedesktop_os_release().get("ID") != "debian":
        raise SysrootError(
            "apt on this system is not configured for Debian: say --mirror URL, the mirror of Debian to use"
        )
    said = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], "apt-get indextargets")
    found = list(dict.fromkeys(line.rstrip("/") for line in said.splitlines()))
    main = [uri for uri in found if uri.endswith("/debian")]
    if not main:
        raise SysrootError(
            "apt here names no mirror of Debian: say --mirror URL, the mirror of Debian to use"
        )
    security = [uri for uri in found if uri.endswith("/debian-security")]
    return Source(main[0], security[0] if security else _security(main[0]), signed)


def _security(mirror: str) -> str:
    return f"{mirror}-security" if mirror.endswith("/debian") else ""


def unpack(
    suite: str, root: str, source: Source, packages: Sequence[str], say: Callable[[str], None]
) -> None:
    """Fetch `packages` of a suite, with what they depend on, and unpack them into the empty folder `root`.

    `say` gets a line for each long step. Raises SysrootError with apt's own words when something cannot be
    had or is not signed.
    """
    with tempfile.TemporaryDirectory(prefix="emu-apt-") as work:
        options = _configure(work, suite, source)
        say(f"reading Debian {suite}'s lists of packages")
        _run(["apt-get", *options, "-qq", "update"], f"Debian {suite}")
        say(f"fetching {', '.join(packages)} and what they need")
        fetch = ["apt-get", *options, "-qq", "--yes", "--no-install-recommends", "--download-only", "install"]
        _run([*fetch, *packages], f"Debian {suite}")
        archives = sorted(glob.glob(os.path.join(glob.escape(work), "cache/archives/*.deb")))
        if not archives:
            raise SysrootError(f"Debian {suite}: apt fetched no package")
        # A merged /usr first, so that packages from before and after it land in one place.
        for name in _MERGED:
            os.makedirs(os.path.join(root, "usr", name))
            os.symlink(f"usr/{name}", os.path.join(root, name))
        for number, archive in enumerate(archives, 1):
            say(f"unpacking {number} of {len(archives)}: {os.path.basename(archive).partition('_')[0]}")
            _unpack_package(archive, root)
    _index_libraries(root)


def _configure(work: str, suite: str, source: Source) -> list[str]:
    """Lay out a folder for apt; return the options that keep it in there."""
    for folder in ("state/lists/partial", "cache/archives/partial", "etc/parts", "etc/preferences"):
        os.makedirs(os.path.join(work, folder))
    if suite == "experimental":
        with open(os.path.join(work, "etc/preferences/glibc"), "w", encoding="utf-8") as file:
            file.write(_GLIBC_OF_EXPERIMENTAL)
    # apt reads packages of a file: mirror where they lie; copy: puts them where ours are looked for.
    mirror, security = (re.sub("^file:", "copy:", url) for url in (source.mirror, source.security))
    trust = f"signed-by={KEYRING}" if source.signed else "trusted=yes"
    suites = ["sid", "experimental"] if suite == "experimental" else [suite]
    lines = [f"deb [{trust}] {mirror} {name} main" for name in suites]
    if suite in _WITH_SECURITY and security:
        lines.append(f"deb [{trust}] {security} {suite}-security main")
    sources = os.path.join(work, "etc/sources.list")
    with open(sources, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    with open(os.path.join(work, "state/status"), "w"):
        pass
    settings = {
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": f"{work}/etc/parts", "Dir::Etc::preferences": f"{work}/etc/none",
        "Dir::Etc::preferencesparts": f"{work}/etc/preferences", "Dir::State": f"{work}/state", "Dir::State::status": f"{work}/state/status",
        "Dir::Cache": f"{work}/cache", "APT::Architecture": "amd64", "APT::Architectures": "amd64", "Acquire::Languages": "none",
        # Run by a user, or by root in a folder that apt's own user cannot enter; there is no dpkg to keep
        # out.
        "APT::Sandbox::User": "root", "Debug::NoLocking": "1", "DPkg::Post-Invoke::": "", "APT::Update::Post-Invoke::": "",
        # Who signed is checked, not how long ago: old releases and snapshots are not renewed, and do as well
        # here.
        "Acquire::Check-Valid-Until": "false",
    }  # fmt: skip
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(command: list[str], what: str) -> str:
    """Return what a command of apt printed. Raises SysrootError with its first complaint."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    # A list that cannot be had is a warning, with the code of success.
    complaints = re.findall(r"^(?:E|W): (.*)$", done.stderr, re.MULTILINE)
    errors = re.findall(r"^E: (.*)$", done.stderr, re.MULTILINE)
    if done.returncode or errors or any("Failed to fetch" in line for line in complaints):
        said = (errors or complaints or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]
        raise SysrootError(f"{what}: {said.strip()}")
    return done.stdout


def _unpack_package(archive: str, root: str) -> None:
    with tempfile.TemporaryFile() as content:
        done = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", archive], stdout=content, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise SysrootError(f"{os.path.basename(archive)}: {done.stderr.decode(errors='replace').strip()}")
        content.seek(0)
        name = os.path.basename(archive)
        with reading(name), open_archive(content=content) as members:
            Unpacker(root, name, keep_links=True).unpack(members)


def _index_libraries(root: str) -> None:
    """Write /etc/ld.so.cache, as the release's own ldconfig would: the host's reads the files of `root`
    and executes none of them.
    """
    ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if ldconfig is None:
        return
    os.makedirs(os.path.join(root, "etc"), exist_ok=True)
    configuration = os.path.join(root, "etc/ld.so.conf")
    if not os.path.exists(configuration):
        with open(configuration, "w", encoding="utf-8") as file:
            file.write("include /etc/ld.so.conf.d/*.conf\n")
    subprocess.run([ldconfig, "-r", root], capture_output=True, check=False)
