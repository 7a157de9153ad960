"""Dynamic string tokens in paths: $ORIGIN, $LIB, $PLATFORM. Source: ld.so(8), "Dynamic string tokens"."""

from __future__ import annotations

from collections.abc import Iterator

PLATFORM = "x86_64"
"""The kernel's AT_PLATFORM: ld.so has others for CPUs that have more than the emulated one."""
_IDENTIFIER = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


def has_dst(text: str) -> bool:
    """Whether `text` contains a dynamic string token that ld.so knows.

    Source: glibc elf/dl-load.c:_dl_dst_count.
    """
    return any(dst_at(text, i + 1)[1] for i, char in enumerate(text) if char == "$")


def dst_at(text: str, start: int) -> tuple[str, int]:
    """Return the token that begins after the `$` before `start` and its length without the `$`.

    Length 0 for none.
    """
    curly = text.startswith("{", start)
    first = start + curly
    for token in ("ORIGIN", "PLATFORM", "LIB"):
        if text.startswith(token, first):
            end = first + len(token)
            following = text[end : end + 1]
            # As in ld.so, a name in braces must not be followed by an identifier character either, and "}"
            # is none.
            if following not in _IDENTIFIER and (following == "}" or not curly):
                return token, len(token) + 2 * curly
    return "", 0


def substitute(text: str, origin: str | None, lib: str) -> str:
    """Replace $ORIGIN (by `origin`), $LIB (by `lib`) and $PLATFORM, also in braces, in a path;
    "" if there is a $ORIGIN and it is not known.

    Other uses of `$` stay. Source: glibc elf/dl-load.c:_dl_dst_substitute; gABI chapter 5 "Substitution
    Sequences".
    """
    parts: list[str] = []
    at = 0
    for dollar, token, end in _tokens(text):
        if token == "ORIGIN" and origin is None:
            return ""
        parts += (
            text[at:dollar],
            {"ORIGIN": origin or "", "PLATFORM": PLATFORM, "LIB": lib, "": "$"}[token],
        )
        at = end
    return "".join(parts) + text[at:]


def substitute_securely(text: str, origin: str | None, lib: str, trusted: tuple[str, ...] | None) -> str:
    """The same for a process with more rights than its user:
    "" also where $ORIGIN is not the whole first part of the path.

    The result of a $ORIGIN must lie in one of the `trusted` directories, where these are given (for paths of
    the program).
    """
    origins = [(dollar, end) for dollar, token, end in _tokens(text) if token == "ORIGIN"]
    if any(dollar or text[end : end + 1] not in ("", "/") for dollar, end in origins):
        return ""
    path = substitute(text, origin, lib)
    return "" if origins and trusted is not None and not _is_trusted(path, trusted) else path


def _tokens(text: str) -> Iterator[tuple[int, str, int]]:
    """Yield where each `$` stands, the token that it begins ("" for none), and where that ends."""
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        token, length = dst_at(text, dollar + 1)
        at = dollar + 1 + length
        yield dollar, token, at


def _is_trusted(path: str, directories: tuple[str, ...]) -> bool:
    """Whether a path, its `.` and `..` resolved by name, lies in one of some directories.

    Source: glibc elf/dl-load.c:is_trusted_path_normalize.
    """
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return path.startswith("/") and f"/{'/'.join(parts)}/".startswith(directories)
