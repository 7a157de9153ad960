"""Names of C++ and Rust entities in the form that people read."""

from __future__ import annotations

import re
from functools import lru_cache

_LONGEST = 4096
_REFERENCES = 40
_PACKS = 3
_REFERENCE = re.compile(r"S[0-9A-Z]*_|T[0-9]*_")
_PACK = re.compile(r"Dp|sp")
_RUST_V0 = re.compile(r"_R[0-9]*[A-Z]")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPE = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_RUST_ESCAPES = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


@lru_cache(maxsize=1 << 14)
def demangle(name: str) -> str:
    """Return the C++ or Rust name behind a mangled one; any other name comes back as it is,
    as does one that is made to be expensive.

    Rust's v0 names are read by Rust's own demangler (the crate rustc-demangle, by way of the package
    pyderust), which gives up on a name that means too much. Rust's older mangling is that of a C++ namespace
    with a hash at its end; its escapes are read, too.

    A substitution stands for what was before, other substitutions included: 150 characters can mean a
    gigabyte. Names of programs have ten of them (the most in LLVM is 40); a name with more, or a very long
    one, is left as it is.
    Source: Itanium C++ ABI "Mangling" (5.1.10 compression); `__cxa_demangle` of libstdc++, by way of the
    package cxxfilt; the rustc book, "Symbol Mangling" (legacy, v0).
    """
    if name.startswith("_R"):
        return _rust_v0(name)
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return name
    if len(_REFERENCE.findall(name)) > _REFERENCES or len(_PACK.findall(name)) > _PACKS:
        return name
    import cxxfilt

    try:
        plain: bytes = cxxfilt.demangleb(name.encode("utf-8", "surrogateescape"))
    except (cxxfilt.Error, UnicodeEncodeError):  # no such name, or no C++ library on this machine
        return name
    text = plain.decode("utf-8", "backslashreplace")
    return _rust(text) if _RUST_HASH.search(text) else text


def _rust_v0(name: str) -> str:
    """Return the path behind a v0 name, without the crates' hashes."""
    if not _RUST_V0.match(name) or len(name) > _LONGEST:
        return name
    import pyderust

    try:
        return str(pyderust.demangle(name))
    except pyderust.DemangleError:
        return name


def _rust(name: str) -> str:
    """Return a Rust path without its hash and escapes."""
    parts = [
        _RUST_ESCAPE.sub(_unescape, part.removeprefix("_") if part.startswith("_$") else part).replace(
            "..", "::"
        )
        for part in _RUST_HASH.sub("", name).split("::")
    ]
    return "::".join(parts)


def _unescape(found: re.Match[str]) -> str:
    word = found[1]
    if word in _RUST_ESCAPES:
        return _RUST_ESCAPES[word]
    code = int(word[1:], 16)
    return chr(code) if code < 0x110000 and chr(code).isprintable() else found[0]
