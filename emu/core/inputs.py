"""Files of the user that are read whole: schedules, suppressions, defaults.

None may be endless, and none makes Python raise what we do not know.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

MOST = 256 << 20
"""Bytes of the largest file that is read whole."""


def read_input(path: str, most: int = MOST) -> bytes:
    """Return the content of a file or a pipe.

    Raises OSError, also (EFBIG) for more than `most` bytes, and (EINVAL) for a device but a terminal.
    """
    with open(path, "rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
            raise OSError(errno.EINVAL, "neither a file nor a pipe")
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MB")
    return content


def parse_toml(content: bytes) -> dict[str, Any]:
    """Return the table that a TOML file holds.

    Raises ValueError with what is wrong, also for what nests too deeply or is not text.
    """
    import tomllib

    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it nests too deeply") from None
