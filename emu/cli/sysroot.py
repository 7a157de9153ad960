"""`emu sysroot`: systems by name for `--sysroot`, from a Debian release, a folder, an archive or a
container image.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

import click

from emu.core.errors import SysrootError
from emu.core.text import aligned
from emu.sysroot import store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.sysroot.store import Sysroot

_ARCHIVE_SUFFIX = re.compile(r"\.(tar(\.\w+)?|tgz|txz|tzst)$")


@click.group("sysroot", short_help="Keep other systems by name, for --sysroot.")
def command() -> None:
    """Keep other systems by name: what every --sysroot takes in place of a folder.

    A sysroot is the root directory of a system whose programs are run or questioned here: nothing of it is
    executed natively. They are kept in $XDG_CACHE_HOME/emu/sysroots (~/.cache/emu/sysroots).

    \b
    Examples:
      emu sysroot add debian:13                     Debian's packages, by apt
      emu sysroot add image.tar --name web          what docker save or podman save wrote
      emu sysroot list
      emu ldd --sysroot debian:13 /bin/ls
      emu sysroot remove web
    """


@command.command("list", short_help="Show the names, their libc and where they come from.")
@click.option("--json", "as_json", is_flag=True, help="A JSON array instead of a table.")
def show(as_json: bool) -> None:
    """Show the sysroots that have a name.

    \b
    Examples:
      emu sysroot list
      emu sysroot list --json
    """
    found = store.sysroots()
    if as_json:
        print(json.dumps([{**each._asdict(), "there": os.path.isdir(each.root)} for each in found], indent=2))
    elif found:
        print("\n".join(aligned([("NAME", "LIBC", "PACKAGE", "FROM"), *map(_row, found)])))


def _libc(sysroot: Sysroot) -> str:
    package = f" ({sysroot.package})" if sysroot.package else ""
    return f"glibc {sysroot.libc}{package}" if sysroot.libc[0].isdigit() else sysroot.libc


def _row(sysroot: Sysroot) -> tuple[str, str, str, str]:
    gone = "" if os.path.isdir(sysroot.root) else " (gone)"
    return sysroot.name, sysroot.libc, sysroot.package or "-", sysroot.source + gone


@command.command("add", short_help="Give a name to a release, a folder, an archive or an image.")
@click.argument("source")
@click.option("--name", help="The name; default: the release's, or the file's without its ending.")
@click.option("--image", metavar="IMAGE", help="Which image, where an archive has several.")
@click.option(
    "--package", "packages", multiple=True, metavar="NAME", help="One more Debian package; repeatable."
)
@click.option("--mirror", metavar="URL", help="The mirror of Debian; default: the one that apt uses here.")
@click.option("--unsigned", is_flag=True, help="Take Debian packages whose signatures cannot be checked.")
def add(
    source: str,
    name: str | None,
    image: str | None,
    packages: tuple[str, ...],
    mirror: str | None,
    unsigned: bool,
) -> None:
    """Make a sysroot of SOURCE and keep it under a name.

    SOURCE is debian:RELEASE (11, 12, 13, unstable, experimental, or a suite's name; apt fetches and checks
    the packages), a folder with a root file system (which stays where it is), or a tar archive: a root file
    system, an OCI image layout, or what docker save wrote. Links of a sysroot are followed inside of it; an
    archive that wants to write outside is refused.

    \b
    Examples:
      emu sysroot add debian:bookworm
      emu sysroot add debian:13 --package libsqlite3-0
      emu sysroot add /srv/rhel9 --name rhel9
      emu sysroot add images.tar --image web:1.2 --name web
    """
    suite = store.suite_of(source) if not os.path.exists(source) else None
    debian_only = {"--package": packages, "--mirror": mirror, "--unsigned": unsigned}
    if suite is None:
        _only(debian_only, "a release of Debian")
    if suite is not None or os.path.isdir(source):
        _only({"--image": image}, "an archive of images")
    if suite is not None:
        made = _from_debian(name or store.canonical(source), suite, packages, mirror, not unsigned)
    elif os.path.isdir(source):
        made = store.add_folder(name or os.path.basename(os.path.realpath(source)), source)
    elif os.path.exists(source):
        made = _from_archive(name or _ARCHIVE_SUFFIX.sub("", os.path.basename(source)), source, image)
    else:
        raise SysrootError(f"{source}: no such file or folder, and no release of Debian (debian:13)")
    print(f"{made.name}: {_libc(made)}, from {made.source}")


@command.command("remove", short_help="Forget sysroots and delete what was unpacked.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove(names: tuple[str, ...]) -> None:
    """Forget each NAME and delete what was unpacked for it.

    A folder that was given a name stays where it is.

    \b
    Examples:
      emu sysroot remove web
      emu sysroot remove debian:12 debian:13
    """
    for name in names:
        store.remove(name)


def _only(options: Mapping[str, object], what: str) -> None:
    for option, value in options.items():
        if value:
            raise click.UsageError(f"{option} is for {what}")


def _from_debian(
    name: str, suite: str, packages: tuple[str, ...], mirror: str | None, signed: bool
) -> Sysroot:
    from emu.sysroot import debian

    source = debian.find_source(mirror, signed)
    wanted = (*debian.PACKAGES, *packages)
    origin = f"{source.mirror} {suite}{'' if signed else ' (unsigned)'}"
    return _add(name, origin, lambda root, say: debian.unpack(suite, root, source, wanted, say))


def _from_archive(name: str, path: str, image: str | None) -> Sysroot:
    from emu.sysroot import image as images

    real = os.path.realpath(path)
    origin = f"{real} ({image})" if image else real
    return _add(name, origin, lambda root, say: images.unpack(path, root, image, say))


def _add(name: str, origin: str, make: Callable[[str, Callable[[str], None]], None]) -> Sysroot:
    """Make a sysroot and show its steps: each in the place of the one before on a terminal, else a line
    for each.
    """
    terminal = sys.stderr.isatty()

    def say(step: str) -> None:
        text = f"emu: {name}: {step}"
        print(f"\r\x1b[K{text}" if terminal else f"{text}\n", end="", file=sys.stderr, flush=True)

    try:
        return store.add(name, origin, lambda root: make(root, say))
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
