"""The composition root: puts the rooms together and runs a program."""

from emu.process.config import Result, RunConfig
from emu.process.process import Process

__all__ = ["Process", "Result", "RunConfig"]
