#!/usr/bin/env python3
"""Fixtures under another glibc: what its real ld.so makes of them, and what emu does
with that system as its sysroot.

    tools/elsewhere.py                      # which releases can be run here, and where they come from
    tools/elsewhere.py 2.41 [PATTERN]       # run fixtures by name both ways; one line for each difference
    tools/elsewhere.py 2.41 --every 10      # every tenth of them

A system is found by the name of its Debian suite in the folder that EMU_SYSROOTS names, else among those that
`emu sysroot` keeps. It is copied once into `.cache/glibc/RELEASE` with the fixtures in it, at the path that
they have here. The real ld.so runs in a chroot (as root, or in a user namespace); where neither may be, as a
command with --library-path. A release that is older than the system's own gets fixtures of its own, built
against its libc.

Source: chroot(2), user_namespaces(7), ld.so(8).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from emu.sysroot import inside, store  # noqa: E402
from tools import fixtures  # noqa: E402
from tools.fixtures import BASE_ENV, CACHE, FixtureError, Outcome  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.fixtures import Fixture, Run

COPIES = ROOT / ".cache" / "glibc"
SUITES = {
    "2.31": "bullseye",
    "2.36-8": "bookworm",
    "2.36": "bookworm",
    "2.41": "trixie",
    "2.43": "sid",
    "2.44": "experimental",
}
"""The releases that Debian has, and the suite that each is in.

What a moving suite has by now is looked at before it is taken. A release with a revision is another build,
with another layout: the suite's system with the libraries of its cross package in the place of its own.
"""
NEWEST = "2.44"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_CROSS, _CROSS_LIBRARIES = "libc6-amd64-cross", "usr/x86_64-linux-gnu/lib"
_LD_SO = "lib64/ld-linux-x86-64.so.2"
_RELEASE = re.compile(rb"\(Debian GLIBC [0-9.]+(-[0-9]+)[^)]*\).* release version (2\.[0-9]+)")
_COMPILERS = ("gcc", "g++", "clang", "clang++")
_WRAPPER = """#!/bin/sh
# Compiles against another system; what is in its libc.so.6 only later comes from its own libraries.
# GCC looks for start files and libraries beside itself before it looks below --sysroot: hence -B.
set -- --sysroot="{root}" -B"{root}/{libraries}/" "$@"
case " $* " in
    *" -c "*|*" -E "*|*" -S "*|*" -nostdlib "*|*" -static "*|*" --version "*) exec {real} "$@" ;;
esac
exec {real} "$@" -Wl,--push-state,--as-needed -ldl -lpthread -lrt -Wl,--pop-state
"""
_CHROOT = """
import os, resource, sys
root, folder, *words = sys.argv[1:]
at = words.index("--")
os.chroot(root)
os.chdir(folder)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execvpe(words[at + 1], words[at + 1:], dict(word.split("=", 1) for word in words[:at]))
"""


class Elsewhere(NamedTuple):
    """Another system: its release of glibc, the copy of its root here, and whether
    it needs fixtures of its own.
    """

    release: str
    root: Path
    older: bool

    def folder(self, name: str) -> Path:
        """Where a fixture lies, as the host sees it; the guest sees it at `CACHE / name`."""
        return self.root / CACHE.relative_to("/") / name


@cache
def source_of(release: str) -> Path | None:
    """Return the system with that release of glibc, as it was given; None where there is none."""
    given = os.environ.get("EMU_SYSROOTS")
    known = store.find(_name_of(release))
    folders = [Path(given) / SUITES[release]] if given else []
    for folder in [*folders, *([Path(known.root)] if known is not None else [])]:
        if os.path.lexists(folder / _LD_SO) and _has(folder, release):
            return folder
    return None


def _name_of(release: str) -> str:
    """The name that `emu sysroot list` shows for the system with a release."""
    return f"glibc-{release}" if "-" in release else f"debian:{SUITES[release]}"


def _has(root: Path, release: str) -> bool:
    """Whether a system has a release of glibc, or another build of it beside its own.

    It goes by the text of that libc.
    """
    libraries = _CROSS_LIBRARIES if "-" in release else _LIBRARIES
    path = Path(inside.resolve(str(root.resolve()), f"{libraries}/libc.so.6"))
    found = _RELEASE.search(path.read_bytes()) if path.is_file() else None
    return found is not None and release.encode() in (found[2], found[2] + found[1])


_UNOBTAINABLE: dict[str, str] = {}
"""Releases that could not be fetched, and why: that takes seconds each time."""


def _adding(release: str) -> list[str]:
    """The command of emu's that makes the system with a release."""
    words = ["sysroot", "add", f"debian:{SUITES[release]}"]
    return [*words, "--package", _CROSS, "--name", _name_of(release)] if "-" in release else words


def add(release: str) -> None:
    """Fetch the system with that release from Debian, under the name that `emu sysroot list` shows.

    Raises FixtureError.
    """
    command = [sys.executable, "-m", "emu", *_adding(release)]
    if release in _UNOBTAINABLE:
        raise FixtureError(_UNOBTAINABLE[release])
    COPIES.mkdir(parents=True, exist_ok=True)
    with open(COPIES / ".adding", "w") as lock:
        fcntl.flock(
            lock, fcntl.LOCK_EX
        )  # the workers of pytest-xdist: the second finds what the first has fetched
        source_of.cache_clear()
        if source_of(release) is not None:
            return
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        _UNOBTAINABLE[release] = f"no system with glibc {release}: {done.stderr.strip().splitlines()[-1]}"
        raise FixtureError(_UNOBTAINABLE[release])
    source_of.cache_clear()


@cache
def elsewhere(release: str) -> Elsewhere:
    """Return the copy of a system, made if need be. Raises FixtureError where there is no such system."""
    source = source_of(release)
    if source is None:
        raise FixtureError(f"no system with glibc {release} here: emu {' '.join(_adding(release))}")
    place = COPIES / release
    COPIES.mkdir(parents=True, exist_ok=True)
    with open(COPIES / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = place / ".stamp"
        if not stamp.exists() or stamp.read_text() != str(source):
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(place)], check=True)
            for name in ("proc", "dev", "tmp"):
                (place / name).mkdir(exist_ok=True)
            if "-" in release:
                for path in (place / _CROSS_LIBRARIES).iterdir():
                    path.replace(place / _LIBRARIES / path.name)
            _relative_links(place)
            stamp.write_text(str(source))
    here = tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split(".")))  # type: ignore[union-attr]
    return Elsewhere(release, place, tuple(map(int, release.partition("-")[0].split("."))) < here)


def _relative_links(root: Path) -> None:
    """Make absolute links among the libraries relative:
    a linker that is given the root as --sysroot follows them as the host does.
    """
    libraries = root / _LIBRARIES
    if not (libraries / "libstdc++.so").exists():
        (libraries / "libstdc++.so").symlink_to("libstdc++.so.6")  # else the linker takes the host's
    for path in [*libraries.iterdir(), root / _LD_SO]:
        if path.is_symlink() and (target := os.readlink(path)).startswith("/"):
            path.unlink()
            path.symlink_to(os.path.relpath(root / target.lstrip("/"), path.parent.resolve()))


def place(fixture: Fixture, system: Elsewhere) -> None:
    """Put a fixture into the system: a copy of the one built here, or for an older
    glibc one that is built against it.

    Raises FixtureError where it does not build there.
    """
    folder = system.folder(fixture.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stamp, digest = folder / fixtures.STAMP, fixtures.digest(fixture)
    with open(COPIES / f".lock-{system.release}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text().startswith(digest):
            failure = stamp.read_text()[len(digest) :]
            if failure:
                raise FixtureError(failure)
            return
        shutil.rmtree(folder, ignore_errors=True)
        if not system.older:
            shutil.copytree(fixtures.build(fixture.name), folder, symlinks=True)
            return
        shutil.copytree(fixture.source, folder)
        try:
            fixtures.run_build(
                fixture, folder, BASE_ENV | {"PATH": f"{_compilers(system)}:{BASE_ENV['PATH']}"}
            )
        except FixtureError as error:
            stamp.write_text(f"{digest}{error}")
            raise
        stamp.write_text(digest)


@cache
def _compilers(system: Elsewhere) -> Path:
    """Make a folder with compilers that compile for the system, under their usual names."""
    folder = COPIES / f"compilers-{system.release}"
    folder.mkdir(exist_ok=True)
    for name in _COMPILERS:
        real = shutil.which(name)
        if real is not None:
            script = folder / name
            script.write_text(_WRAPPER.format(real=real, root=system.root, libraries=_LIBRARIES))
            script.chmod(0o755)
    return folder


@cache
def may_chroot() -> bool:
    """Whether this user may change the root: as root, or in a user namespace."""
    return subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode == 0


def _unshare() -> list[str]:
    return ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def native_command(words: Iterable[str], system: Elsewhere, folder: str, env: dict[str, str]) -> list[str]:
    """Return the command that runs `words` under the system's own ld.so, in the guest's `folder`."""
    if may_chroot():
        mounts = 'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec "$@"'
        chroot = [
            sys.executable,
            "-c",
            _CHROOT,
            str(system.root),
            folder,
            *(f"{k}={v}" for k, v in env.items()),
        ]
        return [*_unshare(), "sh", "-c", mounts, str(system.root), *chroot, "--", *words]
    own = [str(system.root / name) for name in (_LIBRARIES, "usr/lib64", "usr/lib")]
    # ld.so takes the option in the variable's place.
    libraries = ":".join([*filter(None, [env.get("LD_LIBRARY_PATH")]), *own])
    return [str(system.root / _LD_SO), "--library-path", libraries, *words]


def run_native(run: Run, system: Elsewhere, *, timeout: float = 60) -> Outcome:
    """The run under the system's real ld.so; raises subprocess.TimeoutExpired."""
    env = BASE_ENV | run.env
    done = subprocess.run(
        native_command(run.argv, system, str(CACHE / run.fixture), env),
        cwd=system.folder(run.fixture),
        env=None if may_chroot() else env,
        input=run.stdin.encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(
        done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr
    )


def run_emu(run: Run, system: Elsewhere, *options: str, timeout: float = 180) -> Outcome:
    """The run in the emulator, with the system as its sysroot; raises subprocess.TimeoutExpired."""
    env = BASE_ENV | run.env
    words = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    return emu(
        system,
        run.fixture,
        "run",
        "--clean-env",
        *words,
        *options,
        *run.argv,
        stdin=run.stdin,
        timeout=timeout,
    )


def emu(
    system: Elsewhere, fixture: str, command: str, *words: str, stdin: str = "", timeout: float = 180
) -> Outcome:
    """What a command of emu's left, given the system as its sysroot; raises subprocess.TimeoutExpired."""
    done = subprocess.run(
        [sys.executable, "-m", "emu", command, "--sysroot", str(system.root), *words],
        cwd=system.folder(fixture),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=stdin.encode(),
        capture_output=True,
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def differences(run: Run, system: Elsewhere, *options: str) -> str:
    """Return what differs in exit code or standard output, "" for nothing."""
    try:
        native, emulated = run_native(run, system), run_emu(run, system, *options)
    except subprocess.TimeoutExpired as expired:
        return f"no end within {expired.timeout} s: {expired.cmd[0]}"
    if native[:2] == emulated[:2]:
        return ""
    ours, theirs = emulated.stdout.splitlines(), native.stdout.splitlines()
    pairs = zip([*theirs, b"<end>"], [*ours, b"<end>"], strict=False)
    first = next((f"native {a.decode()!r}, emu {b.decode()!r}" for a, b in pairs if a != b), "")
    said = emulated.stderr.decode(errors="replace").strip().splitlines()
    return f"exit {native.exit} and {emulated.exit}; {first}; {said[-1] if said else ''}"


def main() -> int:
    """The command; 1 where something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("release", nargs="?", choices=SUITES)
    parser.add_argument("pattern", nargs="?", default="", help="a regular expression over the runs' names")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth fixture")
    parser.add_argument("--tls-dtors", default="model", choices=["model", "guest"])
    options = parser.parse_args()
    if options.release is None:
        for release, suite in SUITES.items():
            print(f"{release:6} {suite:13} {source_of(release) or 'not here'}")
        return 0
    try:
        system = elsewhere(options.release)
    except FixtureError as error:
        print(f"elsewhere: {error}", file=sys.stderr)
        return 1
    equal, different, not_built = 0, 0, 0
    for fixture in fixtures.load_all()[:: options.every]:
        runs = [run for run in fixture.runs if re.search(options.pattern, run.id)]
        if not runs:
            continue
        try:
            place(fixture, system)
        except FixtureError:
            not_built += len(runs)
            print(f"{fixture.name}: does not build for {options.release}", flush=True)
            continue
        for run in runs:
            said = differences(run, system, "--tls-dtors", options.tls_dtors)
            equal, different = equal + (not said), different + bool(said)
            if said:
                print(f"{run.id}: {said}", flush=True)
    print(f"glibc {options.release}: {equal} equal, {different} different, {not_built} not built")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
