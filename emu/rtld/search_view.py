"""What the search for objects asks of a link map."""

from __future__ import annotations

from typing import Protocol


class DynamicView(Protocol):
    """What the search looks at in a dynamic section."""

    @property
    def flags_1(self) -> int:
        """DT_FLAGS_1, 0 if absent."""


class MapView(Protocol):
    """What the search looks at in a link map.

    `origin` replaces $ORIGIN: the directory of the path that the object was loaded by, without a trailing
    slash (None: unknown).
    """

    @property
    def name(self) -> str:
        """The path that the object was loaded by, empty for the program."""

    @property
    def display_name(self) -> str:
        """The object's name for people."""

    @property
    def origin(self) -> str | None:
        """The directory that $ORIGIN stands for."""

    @property
    def rpath(self) -> str | None:
        """DT_RPATH, None if absent or overruled by a DT_RUNPATH."""

    @property
    def runpath(self) -> str | None:
        """DT_RUNPATH."""

    @property
    def loader(self) -> MapView | None:
        """The object that first needed this one."""

    @property
    def dynamic(self) -> DynamicView:
        """The dynamic section."""
