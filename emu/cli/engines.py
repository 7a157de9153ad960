"""`emu engines`: what can execute a program's code here, and why not."""

from __future__ import annotations

import json
from typing import Any

import click

from emu.core.errors import EmuError
from emu.machine import binding
from emu.machine.engines import make_cpu

_FAILED = 1
_REPORT = "please send the lines above, and `uname -r`, with a bug report"


@click.command("engines", short_help="Tell what can execute programs here.")
@click.option(
    "--self-test",
    is_flag=True,
    help="Try out what emu relies on in KVM; ends with exit code 1 if anything is not so.",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def command(self_test: bool, as_json: bool) -> int:
    """Tell which engines `--engine` can have on this machine, and why not.

    \b
    Examples:
      emu engines
      emu engines --self-test
      emu engines --json
    """
    found = [_unicorn(), _kvm(self_test)]
    if as_json:
        print(json.dumps({"engines": found}, indent=2))
    else:
        for engine in found:
            _show(engine)
    failed = any(check["fault"] for engine in found for check in engine.get("checks", ()))
    if failed and not as_json:
        print(_REPORT)
    return _FAILED if failed else 0


def _unicorn() -> dict[str, Any]:
    about: dict[str, Any] = {"name": "unicorn", "available": True}
    try:
        binding.library_path()
    except EmuError as error:
        return about | {"available": False, "why_not": str(error)}
    return about | {
        "version": ".".join(map(str, binding.VERSION)),
        "level": "x86-64-v2",
        "cpu": "emulated, without AVX",
    }


def _kvm(tried: bool) -> dict[str, Any]:
    from emu.machine.arena import Arena
    from emu.machine.kvm.vm import why_not

    about: dict[str, Any] = {"name": "kvm", "available": False}
    missing = why_not()
    if missing:
        return about | {"why_not": missing}
    try:
        cpu = make_cpu(Arena(), "kvm")
    except EmuError as error:
        return about | {"why_not": str(error)}
    features = cpu.features
    cpu.close()
    about |= {
        "available": True,
        "level": f"x86-64-v{features.level}",
        "cpu": features.brand,
        "signal_state": features.signal_state,
    }
    if tried:
        about |= _self_test()
    return about


def _self_test() -> dict[str, Any]:
    from emu.machine.kvm.selftest import self_test

    result = self_test()
    return {
        "kind": result.kind,
        "trap_us": round(result.trap, 1),
        "syscall_us": round(result.syscall, 1),
        "cpuid": "as chosen by --cpu" if result.virtual_cpuid else "the host's own, whatever --cpu says",
        "rdtsc": "virtual time" if result.virtual_clock else "the host's clock",
        "checks": [check._asdict() for check in result.checks],
    }


def _show(engine: dict[str, Any]) -> None:
    if not engine["available"]:
        print(f"{engine['name']:8} not here: {engine['why_not']}")
        return
    version = f" {engine['version']}" if "version" in engine else ""
    print(f"{engine['name']:8} available{version}: {engine['level']}, {engine['cpu']}")
    if "kind" in engine:
        print(
            f"{'':8} {engine['kind']}; a trap {engine['trap_us']:g} us, a system call {engine['syscall_us']:g} us"
        )
        print(f"{'':8} CPUID is {engine['cpuid']}; RDTSC is {engine['rdtsc']}")
    for check in engine.get("checks", ()):
        print(
            f"{'':8} {'FAILED' if check['fault'] else 'ok':7} {check['name']}{': ' + check['fault'] if check['fault'] else ''}"
        )
