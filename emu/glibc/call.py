"""What a hosted function is called with, and what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.core.effects import Hosted
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.glibc.contract import Contract


class HostedCall(NamedTuple):
    """A call of a hosted function: the six integer argument registers, rsp (at
    the return address) and rax.
    """

    args: tuple[int, int, int, int, int, int]
    rsp: int
    rax: int


Handler = Callable[["Contract", HostedCall], int | Hosted]
"""A handler gets a `HostedCall` (arguments as the psABI passes them) and returns
rax, or a generator of effects.
"""
