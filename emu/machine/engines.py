"""Which engine runs a program: Unicorn anywhere, or the host's own CPU through KVM."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

from emu.core.errors import EmuError

if TYPE_CHECKING:
    from emu.machine.arena import Arena
    from emu.machine.engine import Cpu

EngineName = Literal["unicorn", "kvm", "auto"]
CpuName = Literal["host", "x86-64-v2", "x86-64-v3", "x86-64-v4"]
ENGINES: tuple[str, ...] = get_args(EngineName)
CPUS: tuple[str, ...] = get_args(CpuName)
VARIABLE = "EMU_ENGINE"
"""The host's environment variable that chooses where nobody else has."""


def chosen(engine: str | None) -> str:
    """Return the engine that is asked for, by name or by the environment.

    Raises EmuError for a name that there is not.
    """
    if engine is not None:
        return engine
    named = os.environ.get(VARIABLE) or "unicorn"
    if named not in ENGINES:
        raise EmuError(f"{VARIABLE}={named}: there are the engines {', '.join(ENGINES)}")
    return named


def make_cpu(arena: Arena, engine: str, cpu: str = "host") -> Cpu:
    """Return a CPU of an engine (`unicorn` or `kvm`) over an arena that nothing is mapped in yet.

    `cpu` is the microarchitecture level that it is to have at most, `host` all that there is. Raises EmuError
    for what cannot be had.
    """
    level = int(cpu[-1]) if cpu != "host" else None
    if engine == "kvm":
        from emu.machine.kvm.cpu import KvmCpu  # loads nothing of Unicorn's

        return KvmCpu(arena, level)
    from emu.machine.cpu import UnicornCpu

    if level is not None and level > 2:
        raise EmuError(
            f"--cpu {cpu}: Unicorn emulates x86-64-v2 and no more; --engine kvm runs on the host's own CPU"
        )
    return UnicornCpu(arena)
