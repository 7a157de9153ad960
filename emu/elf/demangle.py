"""Names of C++ entities in the form that people read."""

from __future__ import annotations


def demangle(name: str) -> str:
    """Return the C++ name behind an Itanium-mangled one; any other name comes back as it is.

    Source: Itanium C++ ABI "Mangling"; `__cxa_demangle` of libstdc++, by way of the package cxxfilt.
    """
    if not name.startswith("_Z"):
        return name
    import cxxfilt

    try:
        return str(cxxfilt.demangle(name))
    except cxxfilt.InvalidName:
        return name
