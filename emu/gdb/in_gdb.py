"""For gdb's own Python: emu's commands. `emu gdb` loads this file into gdb; it is not imported by emu."""

import gdb  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gdb.FrameDecorator import FrameDecorator  # type: ignore[import-not-found,import-untyped,unused-ignore]


def emu_symbols(path: str) -> None:
    """Let gdb name the loader's hosted functions."""
    gdb.execute("set confirm off")
    gdb.execute(f"add-symbol-file {path} -o 0", to_string=True)
    gdb.execute("set confirm on")


def _ask(line: str) -> None:
    gdb.execute(f"monitor {line}")


class EmuCommand(gdb.Command):  # type: ignore[misc]
    """Ask emu: why LIB, explain SYMBOL, dtors [THREAD], tls, scopes LIB, events
    [CATEGORY], history, goto PLACE; help says more.
    """

    def __init__(self) -> None:
        super().__init__("emu", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Do it; after a goto all that gdb knows of the process is old."""
        if argument.split()[:1] != ["goto"]:
            _ask(argument or "help")
            return
        print(gdb.execute(f"monitor {argument}", to_string=True), end="")
        gdb.execute("maintenance flush register-cache", to_string=True)
        gdb.execute("maintenance flush dcache", to_string=True)
        gdb.execute("sharedlibrary", to_string=True)
        gdb.execute("info threads", to_string=True)
        running = gdb.execute("monitor running", to_string=True).strip()
        for thread in gdb.selected_inferior().threads():
            if str(thread.ptid[1]) == running:
                thread.switch()
        gdb.execute("frame")


class CatchDtor(gdb.Command):  # type: ignore[misc]
    """Catch a thread_local destructor that is about to run: catch dtor [LIB]."""

    def __init__(self) -> None:
        super().__init__("catch dtor", gdb.COMMAND_BREAKPOINTS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Say so to emu."""
        _ask(f"catch dtor {argument}")


class CatchBind(gdb.Command):  # type: ignore[misc]
    """Catch a reference that is bound: catch bind SYMBOL."""

    def __init__(self) -> None:
        super().__init__("catch bind", gdb.COMMAND_BREAKPOINTS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Say so to emu."""
        _ask(f"catch bind {argument}")


class CatchDl(gdb.Command):  # type: ignore[misc]
    """Catch what the loader does: catch dl open|close|unload [LIB]."""

    def __init__(self) -> None:
        super().__init__("catch dl", gdb.COMMAND_BREAKPOINTS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        """Say so to emu."""
        _ask(f"catch dl {argument}")


class Named(FrameDecorator):  # type: ignore[misc]
    """A frame under the name that gdb gives it, or, if it is the loader's,
    which has called the guest, under that of ld.so's function.
    """

    def function(self) -> str:
        """Return the name."""
        frame = self.inferior_frame()
        name: str = frame.name() or "??"
        if name not in _RETURNS:
            return name
        rsp = int(frame.read_register("rsp").cast(gdb.lookup_type("unsigned long")))
        found: str = gdb.execute(f"monitor hosted {rsp:#x}", to_string=True).strip()
        return found


class HostedFrames:
    """A frame filter for gdb: names the loader's frames."""

    name, priority = "emu", 100

    @property
    def enabled(self) -> bool:
        """Whether there is anything to name: else gdb prints the frames itself."""
        frame = gdb.newest_frame()
        for _ in range(_LOOKED_AT):
            if frame is None or frame.name() in _RETURNS:
                return frame is not None
            frame = frame.older()
        return False

    @enabled.setter
    def enabled(self, wanted: bool) -> None:
        """Leave it so: gdb may want to set it."""

    def filter(self, frames):  # type: ignore[no-untyped-def]
        """Return the frames, decorated."""
        for frame in frames:
            yield frame if frame.inferior_frame().type() == gdb.SIGTRAMP_FRAME else Named(frame)


_LOOKED_AT = 50
_RETURNS = ("_dl_call_guest", "_dl_call_auditor", "_dl_start_user")
gdb.frame_filters["emu"] = HostedFrames()
EmuCommand()
CatchDtor()
CatchBind()
CatchDl()
