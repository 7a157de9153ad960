"""`emu layout`: the layout table of a glibc that emu does not know yet."""

from __future__ import annotations

import os

import click

from emu.core.errors import EmuError, ProgramError
from emu.glibc.choose_layout import release_at
from emu.glibc.debug_files import DebugSystem
from emu.glibc.layout import releases, table_text
from emu.glibc.make_layout import keep, make_table
from emu.kernel.fs.vfs import FileSystem

_LD_SO = "/lib64/ld-linux-x86-64.so.2"


@click.command("layout", short_help="Make the layout table of a glibc from its debug files.")
@click.option(
    "--sysroot",
    type=click.Path(exists=True, file_okay=False),
    default="/",
    metavar="DIR",
    help="The system's root.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="Write the table there and not into the cache."
)
@click.option("--list", "show", is_flag=True, help="List the releases that emu has tables for.")
@click.argument("ld_so", default=_LD_SO)
def command(sysroot: str, output: str | None, show: bool, ld_so: str) -> None:
    """Make the layout table of the glibc that LD_SO belongs to, from its debug files.

    emu does this by itself when it meets a glibc that none of its tables fits. The table is kept in
    $XDG_CACHE_HOME/emu/layouts (~/.cache/emu/layouts) by build ID, and comes before emu's own.

    \b
    Examples:
      emu layout                                          this system's
      emu layout --sysroot ./rootfs
      emu layout --sysroot ./rootfs -o table.json /opt/glibc/lib/ld-linux-x86-64.so.2
    """
    if show:
        print(" ".join(releases()))
        return
    system = DebugSystem(FileSystem(sysroot, lambda: 0, lambda size: None, os.getuid(), os.getgid()), sysroot)
    try:
        release = release_at(system, ld_so)
        table = make_table(system, ld_so, release)
        if output is None:
            print(keep(system, ld_so, table))
            return
    except OSError as error:
        raise ProgramError(f"{ld_so}: {error.strerror}") from None
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(table_text(table))
    except OSError as error:
        raise EmuError(f"{output}: {error.strerror}") from None
    print(output)
