"""What a run is given. Everything that the guest may reach of the host is named here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from emu.kernel.clock import EPOCH_NS

if TYPE_CHECKING:
    from emu.kernel.policy import Policy


class RunConfig(NamedTuple):
    """One run of one program. Paths of `sysroot` and `writable` are the host's, `program` and `cwd` the guest's.

    `env` is the guest's whole environment, `start_time` its CLOCK_REALTIME at the start, in nanoseconds since the epoch. `max_memory` is
    in bytes, `timeout` in seconds of host time. `tls_dtors` chooses who keeps the thread_local destructors: our model, or libc's own code.
    `unload_rule` is what keeps an object with pending destructors (the second needs the model). With `keep_going` missing objects are
    recorded, not fatal, and the program may be a DSO (see `load_program`).
    `image` is the program itself where it is no file (`program` then only names it). `policy` schedules the threads;
    None is round-robin. `stdio` are the host descriptors behind 0, 1 and 2 (None: closed). `ignored` are signals that the program finds
    ignored at its start, `blocked` is its signal mask, `nice` its nice value: what execve lets through.
    """

    program: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012 - never written
    cwd: str = "/"
    sysroot: str = "/"
    seed: int = 0
    writable: tuple[str, ...] = ()
    max_memory: int | None = None
    timeout: float | None = None
    tls_dtors: Literal["model", "guest"] = "model"
    unload_rule: Literal["dtor-count", "nodelete-flag"] = "dtor-count"
    keep_going: bool = False
    argv0: str | None = None
    image: bytes | None = None
    policy: Policy | None = None
    start_time: int = EPOCH_NS
    stdio: tuple[int | None, int | None, int | None] = (0, 1, 2)
    ignored: tuple[int, ...] = ()
    blocked: int = 0
    nice: int = 0


class Result(NamedTuple):
    """How a run ended: the exit code for our own process, the signal that killed the guest (0: none), a line about it."""

    status: int
    signal: int = 0
    report: str = ""
