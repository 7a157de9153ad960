"""The q and Q packets: what gdb asks of the process and sets for the session.

Source: gdb's manual, "General Query Packets", "Remote Protocol Support for the Process Information".
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape as xml
from xml.sax.saxutils import quoteattr

from emu.gdb.libraries import library_list, tls_address
from emu.gdb.packets import MOST, escape
from emu.gdb.registers import target_xml
from emu.gdb.signals import to_linux
from emu.kernel import abi

if TYPE_CHECKING:
    from emu.gdb.session import Session

_LIBRARIES = "qXfer:libraries-svr4:read+;augmented-libraries-svr4-read+;"
_FEATURES = (
    f"PacketSize={MOST:x};QStartNoAckMode+;multiprocess+;vContSupported+;QPassSignals+;QProgramSignals+;QCatchSyscalls+;"
    "swbreak+;hwbreak+;qXfer:auxv:read+;qXfer:features:read+;qXfer:exec-file:read+;"
    + _LIBRARIES
    + "qXfer:threads:read+;qXfer:memory-map:read+;qXfer:siginfo:read+;qXfer:osdata:read+"
)
_MEMORY_MAP = (
    '<?xml version="1.0"?><!DOCTYPE memory-map PUBLIC "+//IDN gnu.org//DTD GDB Memory Map V1.0//EN" '
    '"http://sourceware.org/gdb/gdb-memory-map.dtd"><memory-map>'
    '<memory type="ram" start="0x0" length="0x800000000000"/>'
    '<memory type="ram" start="0xffffffffff600000" length="0x1000"/></memory-map>'
)
"""All that a process may have: what it has changes, and gdb asks once."""


class Queries:
    """Answers for one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._texts: dict[tuple[str, str], bytes] = {}

    def query(self, rest: bytes) -> bytes | None:
        """Answer a q packet."""
        name, _, arguments = rest.partition(b":")
        session, target = self._session, self._session.target
        if name == b"Supported":
            return self._supported(arguments)
        if name == b"Xfer":
            return self._transfer(arguments)
        if name == b"Attached":
            return b"0"
        if name == b"C":
            return b"QC" + session.thread_id(target.last.tid)
        if name == b"fThreadInfo":
            return b"m" + b",".join(session.thread_id(task.tid) for task in target.tasks())
        if name == b"sThreadInfo":
            return b"l"
        if rest.startswith(b"ThreadExtraInfo,"):
            return self._extra(session.parse_thread(rest.partition(b",")[2])).encode().hex().encode()
        if name == b"GetTLSAddr":
            return self._tls(arguments)
        if name == b"Symbol":
            return b"OK"
        if name == b"Offsets":
            return b""
        if rest.startswith(b"Rcmd,"):
            return self._monitor(rest[5:])
        return b""

    def set(self, rest: bytes) -> bytes:
        """Obey a Q packet."""
        name, _, arguments = rest.partition(b":")
        session = self._session
        execution = session.target.execution
        if name == b"StartNoAckMode":
            session.connection.acknowledges = False
            return b"OK"
        if name == b"PassSignals":
            numbers = (to_linux(int(number, 16)) for number in arguments.split(b";") if number)
            execution.pass_signals = frozenset(numbers)
            return b"OK"
        if name == b"ProgramSignals":
            return b"OK"
        if name == b"CatchSyscalls":
            session.target.catches.syscalls = _caught(arguments)
            return b"OK"
        return b""

    def _supported(self, arguments: bytes) -> bytes:
        theirs = arguments.split(b";")
        self._session.multiprocess = b"multiprocess+" in theirs
        features = _FEATURES + self._session.target.features
        if self._session.target.process.rtld is None:  # gdb looks at the list of the program's own ld.so then
            features = features.replace(_LIBRARIES, "")
        return features.encode()

    def _extra(self, tid: int) -> str:
        target = self._session.target
        task = target.task(tid)
        return target.waits(task) if task is not None else ""

    def _tls(self, arguments: bytes) -> bytes:
        thread, offset, map_ = arguments.split(b",")
        target = self._session.target
        task = target.task(self._session.parse_thread(thread))
        if task is None:
            return b"E03"
        address = tls_address(target.process, target.thread_pointer(task), int(offset, 16), int(map_, 16))
        return b"%x" % address if address is not None else b"E16"

    def _monitor(self, arguments: bytes) -> bytes:
        line = bytes.fromhex(arguments.decode()).decode("utf-8", "surrogateescape")
        if line.strip() == "exit":
            self._session.end()
            return b"OK"
        for text in self._session.target.monitor(line):
            self._session.say(text)
        return b"OK"

    # -- qXfer -----------------------------------------------------------------------------------------------

    def _transfer(self, arguments: bytes) -> bytes:
        kind, operation, annex, part = arguments.decode().split(":", 3)
        start, size = (int(number, 16) for number in part.split(","))
        if operation != "read":
            return b""
        if start == 0 or (kind, annex) not in self._texts:
            data = self._object(kind, annex)
            if data is None:
                return b"E00" if kind in ("features", "siginfo", "osdata") else b""
            self._texts[kind, annex] = data
        data = self._texts[kind, annex]
        size = min(size, MOST // 2 - 8)
        more = b"m" if start + size < len(data) else b"l"
        return more + escape(data[start : start + size])

    def _object(self, kind: str, annex: str) -> bytes | None:
        """Return one object whole; None for one that there is not."""
        target = self._session.target
        process = target.process
        if kind == "auxv":
            return process.kernel.program.auxv
        if kind == "features":
            return target_xml().encode() if annex == "target.xml" else None
        if kind == "exec-file":
            return os.fsencode(process.kernel.program.exe)
        if kind == "libraries-svr4":
            return library_list(process).encode("utf-8", "surrogateescape")
        if kind == "memory-map":
            return _MEMORY_MAP.encode()
        if kind == "siginfo":
            return target.siginfo()
        if kind == "threads":
            return self._threads().encode("utf-8", "surrogateescape")
        if kind == "osdata":
            text = self._osdata(annex)
            return text.encode("utf-8", "surrogateescape") if text is not None else None
        return None

    def _threads(self) -> str:
        session, target = self._session, self._session.target
        lines = ['<?xml version="1.0"?><threads>']
        for task in target.tasks():
            ident = session.thread_id(task.tid).decode()
            lines.append(
                f'<thread id="{ident}" core="0" name={quoteattr(_printable(task.name))}>{xml(_printable(target.waits(task)))}</thread>'
            )
        return "".join([*lines, "</threads>"])

    def _osdata(self, annex: str) -> str | None:
        """Return a table of `info os`: of processes there is the one."""
        target = self._session.target
        kernel = target.process.kernel
        command = " ".join(os.fsdecode(word) for word in kernel.program.argv)
        user = str(kernel.credentials.users.real)
        if annex == "":
            rows = [
                {"Type": "processes", "Description": "Listing of all processes", "Title": "Processes"},
                {"Type": "threads", "Description": "Listing of all threads", "Title": "Threads"},
            ]
            kind = "types"
        elif annex == "processes":
            rows = [{"pid": str(abi.PID), "user": user, "command": command, "cores": "0"}]
            kind = annex
        elif annex == "threads":
            rows = [
                {"pid": str(abi.PID), "command": task.name, "tid": str(task.tid), "core": "0"}
                for task in target.tasks()
            ]
            kind = annex
        else:
            return None
        items = "".join(
            "<item>"
            + "".join(f"<column name={quoteattr(n)}>{xml(_printable(v))}</column>" for n, v in row.items())
            + "</item>"
            for row in rows
        )
        return f'<?xml version="1.0"?><!DOCTYPE target SYSTEM "osdata.dtd"><osdata type="{kind}">{items}</osdata>'


def _printable(text: str) -> str:
    """Return text that may stand in XML."""
    return re.sub(r"[^\x20-\x7e\xa0-\ud7ff]", "?", text)


def _caught(arguments: bytes) -> frozenset[int] | None:
    """Return the system calls that are caught: None for all of them."""
    on, *numbers = arguments.split(b";")
    if on == b"0":
        return frozenset()
    return frozenset(int(number, 16) for number in numbers) or None
