"""What the linker knows of a failure beyond ld.so's words:
facts, kept with the error (`EmuError.fact`) for whoever asks why.

They name objects as they were when it failed: an open that fails is told of (`OpenFailed`) before anything is
undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.record import NamedTuple

if TYPE_CHECKING:
    from emu.core.errors import EmuError
    from emu.elf.versions import VersionNeed
    from emu.rtld.link_map import LinkMap
    from emu.rtld.version import Version


class NoFile(NamedTuple):
    """`name` led to no file that can be loaded, or to none at all.

    `loader` needs the object (DT_NEEDED), or (`called`) its code opens it; None where the program is to load
    it for nobody in particular.
    """

    name: str
    loader: LinkMap | None
    namespace: int
    called: bool


class Undefined(NamedTuple):
    """Nothing satisfies a reference of `map`: `symbol` is its number in the object's
    table (0: there is none, as for dlsym).
    """

    map: LinkMap
    symbol: int
    name: bytes
    version: Version | None


class NoVersion(NamedTuple):
    """`provider`, which stands for the file that `map` names, does not define
    the version that `map` needs.
    """

    map: LinkMap
    need: VersionNeed
    provider: LinkMap


class LostVersion(NamedTuple):
    """`map` asks for a symbol with a version of the file that `provider` stands for, which has no versions at
    all.
    """

    map: LinkMap
    version: Version | None
    provider: LinkMap


class NoStaticTls(NamedTuple):
    """`module` got no place in the static TLS area,
    which relocation `kind` of `by` (by `symbol` of its table) needs.
    """

    module: LinkMap
    by: LinkMap
    symbol: int
    kind: int


class Failing(NamedTuple):
    """The open that fails: what was asked for, by code at `caller`;
    `map` is the object opened, None where it did not come to that.

    `error` is None where the guest itself made it (its malloc failed, an auditor's code).
    """

    file: str
    mode: int
    namespace: int
    caller: int
    map: LinkMap | None
    error: EmuError | None
