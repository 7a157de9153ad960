"""What sub-commands share: the guest's environment and file system, and how PROGRAM is found."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import click

from emu.core.errors import EXIT_LOADER, EXIT_NOT_EXECUTABLE, ProgramError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_PATH = "/bin:/usr/bin"
"""What execvp searches where PATH is not set (glibc posix/execvpe.c, confstr _CS_PATH)."""

GUEST_CONTEXT = {"ignore_unknown_options": False, "allow_interspersed_args": False}
"""Options after PROGRAM are the guest's."""


def _variables(_ctx: click.Context, _param: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    result = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE")
        result[name] = value
    return result


def guest_options(function: Command) -> Command:
    """Add --env, --clean-env and --sysroot."""
    for option in (
        click.option(
            "--sysroot",
            type=click.Path(exists=True, file_okay=False),
            default="/",
            metavar="DIR",
            help="The guest's root directory.",
        ),
        click.option("--clean-env", is_flag=True, help="Start from an empty environment, not from this one."),
        click.option(
            "--env",
            "variables",
            multiple=True,
            callback=_variables,
            metavar="NAME=VALUE",
            help="Set a variable of the guest; repeatable.",
        ),
    ):
        function = option(function)
    return function


def environment(variables: dict[str, str], clean: bool) -> dict[str, str]:
    """Return the guest's environment: ours unless `clean`, with `variables` set in it."""
    return variables if clean else dict(os.environ) | variables


def guest_directory(sysroot: str) -> str:
    """Return the guest's working directory: ours where it lies in the sysroot, its root otherwise.

    Raises ProgramError when ours is gone.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise ProgramError("the working directory no longer exists") from None
    root = os.path.realpath(sysroot)
    if root == "/":
        return here
    return here.removeprefix(root) or "/" if f"{here}/".startswith(f"{root}/") else "/"


def find_program(name: str, path: str, sysroot: str) -> str:
    """Return the guest path of `name`: itself if it has a slash, otherwise the first executable in `path`.

    Raises ProgramError: 127 when there is none, 126 when there are only files that may not be executed.
    Source: execvp(3); glibc posix/execvpe.c:__execvpe_common.
    """
    if "/" in name:
        return name
    if not name:
        raise ProgramError("'': command not found", EXIT_LOADER)
    denied = False
    for folder in path.split(":"):
        candidate = f"{folder.rstrip('/')}/{name}" if folder else f"./{name}"
        host = candidate if sysroot == "/" else os.path.join(sysroot, candidate.lstrip("/"))
        # Links of another root cannot be followed here; the process does it, by the guest's rules.
        if os.path.isfile(host) or (sysroot != "/" and os.path.islink(host)):
            if os.path.islink(host) or os.access(host, os.X_OK):
                return candidate
            denied = True
    if denied:
        raise ProgramError(f"{name}: Permission denied", EXIT_NOT_EXECUTABLE)
    raise ProgramError(f"{name}: command not found", EXIT_LOADER)
