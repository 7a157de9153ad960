"""`emu trace-schema`: the JSON Schema of the lines of `--trace-format jsonl`."""

from __future__ import annotations

import json

import click

from emu.trace.schema import schema


@click.command("trace-schema", short_help="Print the JSON Schema of a trace.")
def command() -> None:
    """Print the JSON Schema of a line of --trace-format jsonl.

    \b
    Example:
      emu trace-schema > schema.json
    """
    print(json.dumps(schema(), indent=2))
