"""Extended attributes of the host's files. Source: xattr(7)."""

from __future__ import annotations

import os
from contextlib import suppress


def read_xattrs(host: str) -> dict[bytes, bytes]:
    """Return the extended attributes of a host file, none where the host keeps or tells none."""
    found = {}
    with suppress(OSError):
        for name in os.listxattr(host, follow_symlinks=False):
            found[os.fsencode(name)] = os.getxattr(host, name, follow_symlinks=False)
    return found
