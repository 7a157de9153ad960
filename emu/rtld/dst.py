"""Dynamic string tokens in paths: $ORIGIN, $LIB, $PLATFORM. Source: ld.so(8), "Dynamic string tokens"."""

from __future__ import annotations

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
