"""The errors that system calls tell of. Source: errno(3)."""

from __future__ import annotations

import os


def fail(number: int) -> OSError:
    """Return the OSError of an errno."""
    return OSError(number, os.strerror(number))
