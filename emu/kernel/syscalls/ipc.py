"""What the calls of System V IPC share: who makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.ipc.objects import IpcCaller

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel


def who(k: Kernel) -> IpcCaller:
    """Return who calls, and when."""
    ids = k.credentials.users.effective, k.credentials.groups.effective
    return IpcCaller(k.pid, *ids, k.clock.realtime // abi.NSEC_PER_SEC)
