"""The linker of a program that the kernel has mapped:
made with what it is to know, and let map what the program needs.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emu.core.effects import without_guest
from emu.core.errors import EmuError, LoaderError, MemoryFault, UnsupportedError
from emu.glibc.contract import Contract, ContractOptions
from emu.glibc.cxa_thread_atexit_impl import Observer
from emu.glibc.dlsym import DlsymCall
from emu.glibc.ld_debug import UNUSED
from emu.machine import regs
from emu.process.images import map_of_vdso, mapped, start_info
from emu.process.link_error import died_of, link_error, no_room
from emu.process.notes import say
from emu.process.secure_start import secured_environment
from emu.rtld.given import Options, Services
from emu.rtld.rtld import Rtld

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.glibc.cxa_thread_atexit_impl import ThreadAtexit
    from emu.kernel.exec import ExecImage, Loaded
    from emu.process.debugging import Debugging
    from emu.process.process import Process
    from emu.rtld.given import MappedObject

_OWN_LDSO = "'emu run --ldso real' runs the program with its own ld.so"


def linkers_environment(process: Process, loaded: Loaded) -> Mapping[str, str]:
    """Return the environment that the linker sees:
    the guest's, without what a program with set-id bits must not be told.
    """
    env, stderr = process.config.env, process.config.stdio[2]
    if not loaded.secure:
        return env
    return secured_environment(process.kernel.fs, process.arena, loaded, env, lambda text: say(text, stderr))


def make_linker(
    process: Process, loaded: Loaded, env: Mapping[str, str], debugging: Debugging
) -> tuple[Rtld, Contract]:
    """Return the linker of a process, which knows of no object yet, and its view by libc."""
    config, bus, stderr = process.config, process.bus, process.config.stdio[2]
    options = Options(
        config.keep_going,
        bool(debugging.mask & UNUSED),
        "LD_TRACE_LOADED_OBJECTS" in config.env and not config.keep_going,
        config.unload_rule,
        process.cpu.features.level,
        loaded.secure,
    )
    services = Services(
        lambda text: say(text, stderr),
        process.symbols.describe if bus.init or bus.fini or bus.dtors else hex,
        process.describe_caller or process.symbols.call_site,
        lambda map_: process.forget(map_.map_start, map_.map_end),
    )
    rtld = Rtld(
        process.arena, process.space, process.kernel.fs, bus, env, program_name(process), options, services
    )
    contract = Contract(
        rtld,
        process.arena,
        process.space,
        process.thread_pointer,
        ContractOptions(
            config.tls_dtors == "model",
            process.cpu.features,
            config.sysroot,
            debugging.mask,
            debugging.fd,
            process.symbols.source,
            lambda contract: _watch_callers(process, contract),
            lambda atexit: _observe_dtors(process, atexit),
            _OWN_LDSO,
            not config.no_cache,
        ),
    )
    return rtld, contract


def map_objects(process: Process, contract: Contract, loaded: Loaded, mapped_interpreter: ExecImage) -> None:
    """Let the linker map all that the program needs, with versions checked and TLS laid out.

    Raises EmuError in ld.so's words.
    """
    rtld, interpreter = contract.rtld, mapped(mapped_interpreter)
    try:
        ld_so_map = _prepare(process, contract, interpreter)
        vdso = map_of_vdso(process.space, loaded.vdso) if loaded.vdso else None
        rtld.begin(mapped(loaded.program), interpreter, vdso, ld_so_map)
        if rtld.auditor_names is None:
            without_guest(rtld.load())
        contract.plant_entries(start_info(loaded))
        contract.lay_out_tls()
    except (EmuError, RecursionError) as error:
        raise link_error(program_name(process), error) from None
    except OSError as error:
        raise no_room(process.config, error) from None
    except MemoryFault as fault:
        raise link_error(program_name(process), LoaderError("", died_of(fault))) from None


def program_name(process: Process) -> str:
    """Return the name that the linker's messages begin with: argv[0]."""
    return os.fsdecode(process.loaded.argv[0]) if process.loaded is not None else process.config.program


def _prepare(process: Process, contract: Contract, interpreter: MappedObject) -> int:
    """Choose what emu knows of this libc; where it knows nothing, the libc's own linker is left."""
    try:
        ld_so_map = contract.prepare(interpreter)
    except UnsupportedError as error:
        raise error.or_else(_OWN_LDSO) from None
    changed: dict[str, Any] = dict(process.config.rules)
    contract.rtld.obey(replace(contract.rtld.rules, **changed))
    if process.debugging is not None:
        process.debugging.obey(contract.rtld.rules)
    return ld_so_map


def _observe_dtors(process: Process, atexit: ThreadAtexit) -> None:
    """Let events tell of the thread_local destructors, where libc's own code keeps them."""
    if process.config.tls_dtors == "guest" and process.bus.dtors:
        Observer(atexit, process.cpu.watch, process.cpu.gprs)


def _watch_callers(process: Process, contract: Contract) -> None:
    """Note who calls dlclose and (where bindings are told of) dlsym:
    unlike dlopen, they do not pass that on.
    """

    def caller() -> int:
        return process.arena.read_u64(process.cpu.get(regs.RSP))

    def close() -> None:
        contract.close_callers[process.thread_pointer()] = caller()

    def sym() -> None:
        asked = DlsymCall(caller(), process.cpu.get(regs.RDI), process.cpu.get(regs.RSI))
        contract.dlsym_calls[process.thread_pointer()] = asked

    watched = ((b"dlclose", close), (b"dlsym", sym), (b"dlvsym", sym))
    for name, note in watched if process.bus.bindings else watched[:1]:
        address = contract.rtld.lookup(name)
        if address is not None:
            process.cpu.watch(address, note)
