"""Names of C++ entities in the form that people read."""

from __future__ import annotations

import re
from functools import lru_cache

_LONGEST = 4096
_REFERENCES = 40
_PACKS = 3
_REFERENCE = re.compile(r"S[0-9A-Z]*_|T[0-9]*_")
_PACK = re.compile(r"Dp|sp")


@lru_cache(maxsize=1 << 14)
def demangle(name: str) -> str:
    """Return the C++ name behind an Itanium-mangled one; any other name comes back as it is, as does one that is made to be expensive.

    A substitution stands for what was before, other substitutions included: 150 characters can mean a gigabyte. Names of programs have ten of them
    (the most in LLVM is 40); a name with more, or a very long one, is left as it is.
    Source: Itanium C++ ABI "Mangling" (5.1.10 compression); `__cxa_demangle` of libstdc++, by way of the package cxxfilt.
    """
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return name
    if len(_REFERENCE.findall(name)) > _REFERENCES or len(_PACK.findall(name)) > _PACKS:
        return name
    import cxxfilt

    try:
        plain: bytes = cxxfilt.demangleb(name.encode("utf-8", "surrogateescape"))
    except (cxxfilt.Error, UnicodeEncodeError):  # no such name, or no C++ library on this machine
        return name
    return plain.decode("utf-8", "backslashreplace")
