"""What a run is given. Everything that the guest may reach of the host is named here."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Literal

from emu.core.record import NamedTuple
from emu.kernel.kernel import KernelConfig
from emu.kernel.run.clock import EPOCH_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.kernel.run.policy import Policy
    from emu.machine.features import Features


def die_of(number: int) -> None:
    """End this process by a signal; in a thread that is not the main one, as a shell tells of one."""
    if threading.current_thread() is not threading.main_thread():
        os._exit(128 + number)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class RunConfig(NamedTuple):
    """One run of one program.

    Paths of `sysroot`, `writable` and `shown` (see `KernelConfig`) are the host's,
    `program` and `cwd` the guest's.

    `env` is the guest's whole environment, `start_time` its CLOCK_REALTIME at the start, in nanoseconds since
    the epoch. `max_memory` is in bytes, `max_processes` counts those that there are at a time, `timeout` is
    in seconds of host time. `tls_dtors` chooses who keeps the thread_local destructors: our model, or libc's
    own code. `unload_rule` is what keeps an object with pending destructors (the second needs the model).
    `ldso` is who links: our loader, or the program's own interpreter as guest code. `rules` changes rules of
    its release, to see what they are the cause of. With `keep_going` missing objects are recorded, not fatal,
    and the program may be a DSO (see `load_program`). `image` is the program itself where it is no file
    (`program` then only names it), `library` an object that this empty program opens and closes. `policy`
    schedules the threads; None is round-robin. `stdio` are the host descriptors behind 0, 1 and 2 (None:
    closed). `ignored` are signals that the program finds ignored at its start, `blocked` is its signal mask,
    `nice` its nice value: what execve lets through. With `writable_as_root` owners, devices and set-id bits
    reach `writable` directories, too. `die` ends the process by a signal that a hanging `emu` cannot tell the
    guest of. With `all_frames` nothing of a backtrace is folded. `verbose` tells at once what is not
    supported, not only when the program fails. `cpus` is how many processors the guest sees. `engine`
    executes the code (None: as EMU_ENGINE says, else Unicorn), on a CPU of at most the level `cpu`; see
    `emu.machine.engines`. With `no_cache` nothing is taken from the user's cache that earlier runs have left
    there, nor put there.
    """

    program: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012 - never written
    cwd: str = "/"
    sysroot: str = "/"
    seed: int = 0
    writable: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    max_memory: int | None = None
    max_processes: int = 256
    timeout: float | None = None
    tls_dtors: Literal["model", "guest"] = "model"
    unload_rule: Literal["dtor-count", "nodelete-flag"] = "dtor-count"
    ldso: Literal["emu", "real"] = "emu"
    rules: tuple[tuple[str, bool], ...] = ()
    keep_going: bool = False
    argv0: str | None = None
    image: bytes | None = None
    library: str = ""
    policy: Policy | None = None
    start_time: int = EPOCH_NS
    stdio: tuple[int | None, int | None, int | None] = (0, 1, 2)
    ignored: tuple[int, ...] = ()
    blocked: int = 0
    nice: int = 0
    writable_as_root: bool = False
    die: Callable[[int], None] = die_of
    all_frames: bool = False
    verbose: bool = False
    cpus: int = 1
    engine: str | None = None
    cpu: str = "host"
    no_cache: bool = False


class Result(NamedTuple):
    """How a run ended: the exit code for our own process, the signal that killed the
    guest (0: none), a line about it.
    """

    status: int
    signal: int = 0
    report: str = ""


def kernel_config(config: RunConfig, features: Features) -> KernelConfig:
    """Return what the kernel is given of a run, on a CPU that has `features`; the user is the host's."""
    return KernelConfig(
        sysroot=config.sysroot,
        writable=config.writable,
        shown=config.shown,
        cwd=config.cwd,
        max_processes=config.max_processes,
        seed=config.seed,
        uid=os.getuid(),
        gid=os.getgid(),
        groups=tuple(os.getgroups()),
        stdio=config.stdio,
        ignored=config.ignored,
        writable_as_root=config.writable_as_root,
        cpus=config.cpus,
        features=features,
    )
