"""The composition root: puts the rooms together and runs a program."""

from emu.process.config import Result, RunConfig
from emu.process.process import Process
from emu.process.sysroots import named_sysroot

__all__ = ["Process", "Result", "RunConfig", "named_sysroot"]
