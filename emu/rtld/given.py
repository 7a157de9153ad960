"""What the linker is given: what is asked of it, what the host does for it, and
objects that the kernel has mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from emu.core.effects import Effect
from emu.core.errors import EmuError, LoaderError
from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.elf.header import Phdr
    from emu.rtld.link_map import LinkMap

Work = Generator[Effect, int, None]


class Entries(NamedTuple):
    """Guest addresses that relocation puts into slots: the lazy resolver and the TLS descriptor functions."""

    runtime_resolve: int
    runtime_profile: int
    tlsdesc_return: int
    tlsdesc_undefweak: int
    tlsdesc_dynamic: int


class MappedObject(NamedTuple):
    """An object that the kernel mapped: the program, the interpreter, the vDSO."""

    path: str
    bias: int
    entry: int
    phdr: int
    phdrs: list[Phdr]
    file_id: tuple[int, int]


class Caught(Protocol):
    """An error that ld.so's own machinery caught, to be looked at or passed on."""

    def text(self) -> str:
        """Return what dlerror would say of it."""

    def reason(self) -> str:
        """Return the message alone."""

    def signal(self) -> Work:
        """Leave the hosted function by raising it again."""


class Closing(Enum):
    """Whether a collection is going on, and whether it was asked to start over.

    Source: glibc elf/dl-close.c:dl_close_state.
    """

    NO = 0
    PENDING = 1
    RERUN = 2


UnloadRule = Literal["dtor-count", "nodelete-flag"]
"""What keeps an object with pending thread_local destructors:
the count (2.22 and later), or NODELETE (2.18 to 2.21).
"""


class Options(NamedTuple):
    """What is asked of the linker beside LD_*: see the attributes of `Rtld`."""

    keep_going: bool = False
    accept_undefined: bool = False
    trace: bool = False
    unload_rule: UnloadRule = "dtor-count"
    cpu_level: int = 2
    secure: bool = False


class Services(NamedTuple):
    """What the host does for the linker: see the attributes of `Rtld`."""

    write_error: Callable[[str], None] = lambda text: None
    describe: Callable[[int], str] = hex
    describe_caller: Callable[[int], str] = hex
    on_unload: Callable[[LinkMap], None] = lambda map_: None


class VersionErrors(EmuError):
    """Symbol versions that are missing at start-up:
    ld.so names each and exits with 1, or ends before that with a `last` error.
    """

    exit_code = 1

    def __init__(self, errors: list[LoaderError], last: EmuError | None = None) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors, self.last = errors, last
