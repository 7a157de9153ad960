"""Whom an open file belongs to, as far as signals go. Source: fcntl(2), "Managing signals"."""

from __future__ import annotations

from typing import NamedTuple

OWNER_TID, OWNER_PID, OWNER_PGRP = 0, 1, 2


class Owner(NamedTuple):
    """Thread, process or group (OWNER_*) by its id, 0: nobody; the signal, 0: SIGIO, which tells nothing."""

    kind: int = OWNER_PID
    id: int = 0
    signo: int = 0


NOBODY = Owner()
