"""The Python face: a process of the guest as an object, its libraries as ctypes has them.

`import emu` gives all of it.

May import everything but `cli`. Nothing below imports it.
"""

from emu.analysis.why_data import Reason
from emu.api.checking import Findings
from emu.api.convert import CFUNCTYPE, Callback, Prototype
from emu.api.dtors import Destroyed, DestroyedObject
from emu.api.errors import (
    ArgumentError,
    ClosedError,
    DeadlockError,
    Error,
    GuestException,
    GuestFault,
    MemoryAccessError,
    NotAFunctionError,
    OpenError,
    ProcessEnded,
    RunTimeout,
    StateError,
    SymbolNotFoundError,
    UnsupportedError,
)
from emu.api.events import Event, Events
from emu.api.function import Function
from emu.api.handlers import Call
from emu.api.hooks import Breakpoint, Interposition
from emu.api.library import Library, Symbol
from emu.api.linking import (
    RTLD_DEEPBIND,
    RTLD_GLOBAL,
    RTLD_LAZY,
    RTLD_LOCAL,
    RTLD_NODELETE,
    RTLD_NOLOAD,
    RTLD_NOW,
)
from emu.api.memory import Memory
from emu.api.pointer import Pointer
from emu.api.process import Process
from emu.api.reasons import Reasons
from emu.api.snapshot import Snapshot
from emu.api.thread import Thread

__all__ = [
    "ArgumentError", "Breakpoint", "CFUNCTYPE", "Call", "Callback", "ClosedError", "DeadlockError", "Destroyed", "DestroyedObject",
    "Error", "Event", "Events", "Findings", "Function", "GuestException", "GuestFault", "Interposition", "Library", "Memory",
    "MemoryAccessError", "NotAFunctionError", "OpenError", "Pointer", "Process", "ProcessEnded", "Prototype", "RTLD_DEEPBIND",
    "RTLD_GLOBAL", "RTLD_LAZY", "RTLD_LOCAL", "RTLD_NODELETE", "RTLD_NOLOAD", "RTLD_NOW", "Reason", "Reasons", "RunTimeout", "Snapshot",
    "StateError", "Symbol", "SymbolNotFoundError", "Thread", "UnsupportedError",
]  # fmt: skip
