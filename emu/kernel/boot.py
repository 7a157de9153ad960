"""A kernel with everything in place: /dev, /proc, writable directories, working directory, standard files."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from emu.core.errors import EmuError
from emu.kernel import abi
from emu.kernel.fs.devices import mount_devices
from emu.kernel.fs.hostfile import HostFile
from emu.kernel.fs.pty import mount_terminals
from emu.kernel.kernel import Kernel, System
from emu.kernel.proc.procfs import mount_proc
from emu.kernel.proc.sysfs import mount_sys
from emu.kernel.run.family import Family
from emu.kernel.run.signal_info import Action

if TYPE_CHECKING:
    from emu.core.events import EventBus
    from emu.kernel.fs.fdtable import FdTable
    from emu.kernel.kernel import KernelConfig
    from emu.machine.address_space import AddressSpace


def boot(config: KernelConfig, space: AddressSpace, bus: EventBus) -> Kernel:
    """Return the kernel of the first process, which has yet to be loaded.

    Raises OSError for a sysroot or directory that is not there, EmuError.
    """
    system = System(config, space.shared_files, space.arena.budget, bus)
    fs = system.fs
    pid = system.new_id()
    family = Family(pid, abi.PPID, abi.PGID, abi.SID)
    kernel = system.leader = Kernel(system, space, family, fs.caller)
    for number in config.ignored:
        kernel.signals.actions[number] = Action(abi.SIG_IGN)
    mount_devices(fs, kernel.fds, system.entropy, system.terminal)
    mount_terminals(fs, system)
    mount_proc(system)
    mount_sys(system)
    for directory in config.shown:
        fs.show(directory)
    fs.privileged = config.writable_as_root or os.geteuid() != 0
    fs.on_refusal = lambda what: system.report_once(
        f"privilege: {what}",
        f"emu: {what} in a --writable directory is refused, since emu is root; the program was told EPERM; --writable-as-root lets it through",
    )
    for directory in config.writable:
        from emu.kernel.fs.passthrough import mount_writable

        mount_writable(fs, directory)
    try:
        fs.chdir(fs.find(config.cwd))
    except OSError as error:
        raise EmuError(
            f"{config.cwd}: {error.strerror}: the working directory must be one of the guest's, which has a /dev and a /proc of its own"
        ) from None
    for number, host in enumerate(config.stdio):
        if host is not None:
            _adopt(kernel.fds, number, host)
    return kernel


def _adopt(fds: FdTable, number: int, host: int) -> None:
    try:
        flags = fcntl.fcntl(host, fcntl.F_GETFL)
    except OSError:
        return  # started with this descriptor closed: so is the guest's
    if flags & os.O_PATH:
        return  # it was closed, and `emu` keeps its number from other files
    fds.install(HostFile(host), fd=number)
