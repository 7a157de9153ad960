"""Whether files of the host are what they were."""

from __future__ import annotations

import os
import stat

Signature = tuple[int, ...]


def signature(path: str) -> Signature:
    """Return what tells whether a file, or with a slash behind it a directory's entries, is what it was;
    links are not followed.
    """
    try:
        st = os.lstat(path)
    except OSError as error:
        return (error.errno or 0,)
    if stat.S_ISDIR(st.st_mode) and not path.endswith("/"):
        return st.st_dev, st.st_ino, st.st_mode
    return st.st_dev, st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns


def unchanged(files: dict[str, Signature]) -> bool:
    """Whether each path has the signature that it had."""
    return all(signature(path) == known for path, known in files.items())
