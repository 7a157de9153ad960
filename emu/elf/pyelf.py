"""What every user of pyelftools needs: its errors, which are many, as ours."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.core.errors import ElfError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def malformed(path: str, what: str = "ELF or DWARF content") -> Iterator[None]:
    """Turn what pyelftools raises for malformed content into `ElfError`:
    besides its own errors, those of failed look-ups.
    """
    import zlib

    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.construct import ConstructError

    kinds = (ELFError, DWARFError, ConstructError, zlib.error, struct.error)
    lookups = (LookupError, AttributeError, TypeError, ValueError, AssertionError, ArithmeticError)
    try:
        yield
    except RecursionError as error:
        raise ElfError(path, f"malformed {what}: it nests too deeply") from error
    except (*kinds, *lookups) as error:
        raise ElfError(path, f"malformed {what}: {error or type(error).__name__}") from error
