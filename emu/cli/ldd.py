"""`emu ldd`: the load order of a program, who needed each object, and by which rule it was found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from emu.cli import options
from emu.cli.table import aligned
from emu.core.errors import EXIT_FINDINGS
from emu.core.events import EventBus
from emu.process import Process, RunConfig

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap


@click.command(
    "ldd",
    short_help="Show what a program loads, for whom, by which rule.",
    context_settings=options.GUEST_CONTEXT,
)
@options.guest_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.argument("program")
def command(program: str, variables: dict[str, str], clean_env: bool, sysroot: str, as_json: bool) -> int:
    """Show what PROGRAM, or a shared library, loads, in load order: name, path, who needed it, the rule that found it.

    Nothing of PROGRAM is executed. The exit code is 1 when an object is missing.

    \b
    Examples:
      emu ldd /bin/ls
      emu ldd --env LD_LIBRARY_PATH=./lib ./hello
      emu ldd ./libplugin.so
      emu ldd --json ./hello
    """
    env = options.environment(variables, clean_env)
    config = RunConfig(
        program=options.find_program(program, env.get("PATH", options.DEFAULT_PATH), sysroot),
        args=(),
        env=env,
        cwd=options.guest_directory(sysroot),
        sysroot=sysroot,
        keep_going=True,
        argv0=program,
    )
    process = Process(config, EventBus())
    process.load()
    rtld = process.rtld
    objects = [_object(link_map) for link_map in rtld.namespaces[0].maps] if rtld is not None else []
    missing = (
        [{"name": name, "needed_by": by.display_name} for name, by in rtld.missing]
        if rtld is not None
        else []
    )
    if as_json:
        answer = {
            "program": config.program,
            "dynamic": rtld is not None,
            "objects": objects,
            "missing": missing,
        }
        print(json.dumps(answer, indent=2))
    elif rtld is None:
        print(f"{config.program}: statically linked")
    else:
        print(_table(objects, missing))
    return EXIT_FINDINGS if missing else 0


def _object(link_map: LinkMap) -> dict[str, Any]:
    return {
        "name": link_map.needed_as or link_map.display_name,
        "path": link_map.path,
        "needed_by": link_map.loader.display_name if link_map.loader is not None else None,
        "rule": link_map.found_by,
    }


def _table(objects: list[dict[str, Any]], missing: list[dict[str, str]]) -> str:
    rows = [("NAME", "PATH", "NEEDED BY", "FOUND BY")]
    rows += [(o["name"], o["path"] or "-", o["needed_by"] or "-", o["rule"] or "-") for o in objects]
    rows += [(m["name"], "not found", m["needed_by"], "-") for m in missing]
    return aligned(rows)
