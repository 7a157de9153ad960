"""How much static TLS is kept for modules that come later.

Source: glibc elf/dl-tls.c:_dl_tls_static_surplus_init.
"""

from __future__ import annotations

import re

from emu.core.errors import LinkError
from emu.rtld.scope import DL_NNS

_NNS, _OPTIONAL = 4, 512
_M64, _MOST_DIGITS = (1 << 64) - 1, 1000
_LIBC_IE_TLS = _OTHER_IE_TLS = _LEGACY = 144


def surplus(tunables: str, auditors: int = 0) -> tuple[int, int]:
    """Return the bytes of static TLS kept for modules that come later, and the part of them that may be used
    where dynamic TLS would do as well.

    `tunables` is GLIBC_TUNABLES: glibc.rtld.nns (namespaces to provide for, 1 to 16) and
    glibc.rtld.optional_static_tls. Each of the auditors has a namespace more. Raises LinkError where there
    are more of them than namespaces.
    Source: glibc elf/dl-tls.c:_dl_tls_static_surplus_init, elf/dl-tunables.list.
    """
    nns = min(tunable(tunables, "glibc.rtld.nns", _NNS, 1), DL_NNS)
    if DL_NNS - nns < auditors:
        raise LinkError(f"Failed loading {auditors} audit modules, {DL_NNS - nns} are supported.")
    nns += auditors
    optional = tunable(tunables, "glibc.rtld.optional_static_tls", _OPTIONAL, 0)
    size = (nns - 1) * _LIBC_IE_TLS + nns * _OTHER_IE_TLS + optional + _LEGACY
    return size & _M64, optional  # as ld.so's sum wraps


def tunable(tunables: str, name: str, default: int, least: int) -> int:
    """Return the value of a number in GLIBC_TUNABLES; one that is no number, or
    below `least`, counts for nothing.
    """
    value = default
    for setting in tunables.split(":"):
        key, _, text = setting.partition("=")
        if key == name and (match := re.fullmatch(r"\s*(0[xX][0-9a-fA-F]+|[0-9]+)", text)):
            digits = match[1][:_MOST_DIGITS]  # Python refuses to convert thousands of them
            number = int(digits, 8 if re.fullmatch("0[0-7]+", match[1]) else 0)
            number = min(number, _M64)
            value = number if number >= least else value
    return value
