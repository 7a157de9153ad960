"""The guest's files, for gdb to read: vFile packets.

Nothing can be written, and the guest sees nothing of it.

Source: gdb's manual, "Host I/O Packets" and "File-I/O Remote Protocol Extension" (struct stat, errno, flags).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.gdb.packets import escape
from emu.kernel import abi
from emu.kernel.fs.inodes import Symlink
from emu.kernel.fs.stat import Stat
from emu.kernel.proc import proctext

if TYPE_CHECKING:
    from emu.kernel.fs.file import OpenFile
    from emu.kernel.kernel import Kernel
    from emu.kernel.run.task import Task

_ACCMODE = 3
_FILEIO_ERRORS = {1, 2, 4, 9, 13, 14, 16, 17, 19, 20, 21, 22, 23, 24, 27, 28, 29, 30}
_UNKNOWN, _TOO_LONG = 9999, 91
_OF_PROCESS: dict[str, Callable[[Kernel], bytes]] = {
    "maps": proctext.maps_text, "cmdline": proctext.cmdline_text, "environ": proctext.environ_text,
    "auxv": proctext.auxv_text, "limits": proctext.limits_text, "statm": proctext.statm_text,
}  # fmt: skip
_OF_THREAD: dict[str, Callable[[Kernel, Task], bytes]] = {
    "comm": proctext.comm_text, "stat": proctext.stat_text, "status": proctext.status_text,
}  # fmt: skip


class Files:
    """The files that one client has open."""

    def __init__(self, kernel: Callable[[], Kernel]) -> None:
        self._kernel = kernel
        self._open: dict[int, OpenFile | bytes] = {}

    def serve(self, request: bytes) -> bytes:
        """Answer what follows `vFile:`; an empty answer for an operation that there is not."""
        name, _, rest = request.partition(b":")
        operation = {
            b"setfs": lambda args: self._result(0), b"open": self._open_file, b"close": self._close,
            b"pread": self._read, b"fstat": self._fstat, b"readlink": self._readlink,
            b"pwrite": self._refuse, b"unlink": self._refuse,
        }.get(name)  # fmt: skip
        if operation is None:
            return b""
        try:
            return operation(rest.split(b",") if name != b"pwrite" else [])
        except OSError as error:
            number = error.errno or 0
            code = (
                _TOO_LONG
                if number == errno.ENAMETOOLONG
                else number
                if number in _FILEIO_ERRORS
                else _UNKNOWN
            )
            return b"F-1,%x" % code
        except (ValueError, IndexError):
            return b"F-1,%x" % errno.EINVAL

    @staticmethod
    def _result(value: int, data: bytes | None = None) -> bytes:
        return b"F%x" % value + (b"" if data is None else b";" + escape(data))

    def _open_file(self, args: list[bytes]) -> bytes:
        path = os.fsdecode(bytes.fromhex(args[0].decode()))
        if int(args[1], 16) & _ACCMODE:
            raise OSError(errno.EROFS, path)
        number = next(n for n in range(3, len(self._open) + 4) if n not in self._open)
        text = self._text(path)
        self._open[number] = text if text is not None else self._kernel().fs.open(path, abi.O_RDONLY)
        return self._result(number)

    def _text(self, path: str) -> bytes | None:
        """Return what a file below /proc says; the guest's own /proc is left as it is."""
        parts = path.split("/")
        kernel = self._kernel()
        if len(parts) < 4 or parts[1] != "proc" or parts[2] not in (str(abi.PID), "self"):
            return None
        task = kernel.tasks.leader
        if len(parts) == 6 and parts[3] == "task" and parts[4].isdecimal():
            if int(parts[4]) not in kernel.tasks:
                raise OSError(errno.ENOENT, path)
            task = kernel.tasks[int(parts[4])]
        if parts[-1] in _OF_PROCESS:
            return _OF_PROCESS[parts[-1]](kernel)
        return _OF_THREAD[parts[-1]](kernel, task) if parts[-1] in _OF_THREAD else None

    def _file(self, text: bytes) -> OpenFile | bytes:
        try:
            return self._open[int(text, 16)]
        except KeyError:
            raise OSError(errno.EBADF, "") from None

    def _close(self, args: list[bytes]) -> bytes:
        self._file(args[0])
        del self._open[int(args[0], 16)]
        return self._result(0)

    def _read(self, args: list[bytes]) -> bytes:
        file = self._file(args[0])
        size, offset = min(int(args[1], 16), 0x8000), int(args[2], 16)
        data = file[offset : offset + size] if isinstance(file, bytes) else file.pread(size, offset)
        return self._result(len(data), data)

    def _fstat(self, args: list[bytes]) -> bytes:
        file = self._file(args[0])
        if isinstance(file, bytes):
            st = Stat(0, 0, abi.S_IFREG | 0o444, 1, 0, 0, 0, 0, 1024, 0, 0, 0, 0)
        else:
            st = file.stat()
        times = (st.atime // 10**9, st.mtime // 10**9, st.ctime // 10**9)
        numbers = (st.dev, st.ino, st.mode, st.nlink, st.uid, st.gid, st.rdev)
        packed = struct.pack(
            ">7I3Q3I", *(number & abi.U32 for number in numbers), st.size, st.blksize, st.blocks,
            *(moment & abi.U32 for moment in times),
        )  # fmt: skip
        return self._result(len(packed), packed)

    def _readlink(self, args: list[bytes]) -> bytes:
        path = os.fsdecode(bytes.fromhex(args[0].decode()))
        kernel = self._kernel()
        if path in (f"/proc/{abi.PID}/exe", "/proc/self/exe"):
            target = kernel.program.exe
        elif path in (f"/proc/{abi.PID}/cwd", "/proc/self/cwd"):
            target = kernel.caller.cwd.path()
        else:
            inode = kernel.fs.find(path, follow=False)
            if not isinstance(inode, Symlink):
                raise OSError(errno.EINVAL, path)
            target = inode.target()
        data = os.fsencode(target)
        return self._result(len(data), data)

    def _refuse(self, _args: list[bytes]) -> bytes:
        raise OSError(errno.EROFS, "read-only")
