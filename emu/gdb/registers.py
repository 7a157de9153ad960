"""The registers as gdb's remote protocol has them, and the description that tells gdb so.

Source: gdb's manual, "Target Descriptions" (i386 features); Intel SDM volume 1, 10.5.1 (the FXSAVE image) and
8.1.7 (the tag word).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.record import NamedTuple
from emu.machine import regs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu

_GENERAL = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags".split()
_SEGMENTS = {"cs": 0x33, "ss": 0x2B, "ds": 0, "es": 0, "fs": 0, "gs": 0}
_CONTROL = "fctrl fstat ftag fiseg fioff foseg fooff fop".split()
NO_CALL = (1 << 64) - 1
"""What orig_rax says outside of a system call."""
_EMPTY, _VALID, _ZERO, _SPECIAL = 3, 0, 1, 2


class Register(NamedTuple):
    """One register: its name, size in bits, type in the target description, and the
    feature that it belongs to.
    """

    name: str
    bits: int
    type: str
    feature: str

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.bits // 8


def _all() -> Iterator[Register]:
    core, sse = "core", "sse"
    for name in _GENERAL[:16]:
        kind = "data_ptr" if name in ("rsp", "rbp") else "int64"
        yield Register(name, 64, kind, core)
    yield Register("rip", 64, "code_ptr", core)
    yield Register("eflags", 32, "i386_eflags", core)
    for name in _SEGMENTS:
        yield Register(name, 32, "int32", core)
    for number in range(8):
        yield Register(f"st{number}", 80, "i387_ext", core)
    for name in _CONTROL:
        yield Register(name, 32, "int", core)
    for number in range(16):
        yield Register(f"xmm{number}", 128, "vec128", sse)
    yield Register("mxcsr", 32, "i386_mxcsr", sse)
    yield Register("orig_rax", 64, "int", "linux")
    yield Register("fs_base", 64, "int", "segments")
    yield Register("gs_base", 64, "int", "segments")


REGISTERS = tuple(_all())
NUMBERS = {register.name: number for number, register in enumerate(REGISTERS)}
_ORDER = ("core", "sse", "linux", "segments")
_FLAGS = (
    ("", 22, 31), ("ID", 21, 21), ("VIP", 20, 20), ("VIF", 19, 19), ("AC", 18, 18), ("VM", 17, 17), ("RF", 16, 16),
    ("NT", 14, 14), ("OF", 11, 11), ("DF", 10, 10), ("IF", 9, 9), ("TF", 8, 8), ("SF", 7, 7), ("ZF", 6, 6),
    ("AF", 4, 4), ("PF", 2, 2), ("", 1, 1), ("CF", 0, 0),
)  # fmt: skip
_MXCSR = "IE DE ZE OE UE PE DAZ IM DM ZM OM UM PM".split()
_VECTORS = (
    ("v8bf16", "bfloat16", 8), ("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16),
    ("v8i16", "int16", 8), ("v4i32", "int32", 4), ("v2i64", "int64", 2),
)  # fmt: skip


def target_xml() -> str:
    """Return the target description."""
    parts = ['<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>']
    parts.append("<architecture>i386:x86-64</architecture><osabi>GNU/Linux</osabi>")
    for feature in _ORDER:
        parts.append(f'<feature name="org.gnu.gdb.i386.{feature}">')
        if feature == "core":
            parts.append(_flags("i386_eflags", [(n, a, b) for n, a, b in reversed(_FLAGS)]))
        if feature == "sse":
            parts += [
                f'<vector id="{name}" type="{kind}" count="{count}"/>' for name, kind, count in _VECTORS
            ]
            parts.append('<union id="vec128">')
            names = "v8_bfloat16 v4_float v2_double v16_int8 v8_int16 v4_int32 v2_int64".split()
            parts += [f'<field name="{n}" type="{v[0]}"/>' for n, v in zip(names, _VECTORS, strict=True)]
            parts.append('<field name="uint128" type="uint128"/></union>')
            parts.append(_flags("i386_mxcsr", [(n, i, i) for i, n in enumerate(_MXCSR)] + [("FZ", 15, 15)]))
        for register in REGISTERS:
            if register.feature == feature:
                number = NUMBERS[register.name]
                group = ' group="float"' if register.name in _CONTROL else ""
                parts.append(
                    f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.type}" regnum="{number}"{group}/>'
                )
        parts.append("</feature>")
    return "".join([*parts, "</target>"])


def _flags(name: str, fields: list[tuple[str, int, int]]) -> str:
    inner = "".join(f'<field name="{field}" start="{a}" end="{b}"/>' for field, a, b in fields)
    return f'<flags id="{name}" size="4">{inner}</flags>'


class RegisterFile:
    """The registers of all threads.

    `running` returns the thread that has the CPU, `call_of` the system call that a thread is in.
    """

    def __init__(self, cpu: Cpu, running: Callable[[], Task], call_of: Callable[[Task], int]) -> None:
        self._cpu, self._running, self._call_of = cpu, running, call_of

    def read(self, task: Task) -> list[bytes]:
        """Return all registers in the order of `REGISTERS`."""
        cpu = self._cpu
        if task is self._running():
            return self._read(task)
        assert task.context is not None
        elsewhere = cpu.save()
        cpu.restore(task.context)
        try:
            values = self._read(task)
        finally:
            cpu.restore(elsewhere)
        if task.context.in_trap:  # it goes on behind the `syscall`
            number = NUMBERS["rip"]
            values[number] = struct.pack("<Q", struct.unpack("<Q", values[number])[0] + 2)
        return values

    def general(self, task: Task) -> list[bytes]:
        """Return the first registers, up to rip, which cost less."""
        if task is not self._running():
            return self.read(task)[:17]
        return [struct.pack("<Q", value) for value in self._cpu.gprs()[:17]]

    def write(self, task: Task, changes: dict[int, bytes]) -> None:
        """Store registers, by their numbers in `REGISTERS`."""
        cpu = self._cpu
        if task is self._running():
            self._write(changes)
            return
        assert task.context is not None
        rip = NUMBERS["rip"]
        if task.context.in_trap and rip in changes:
            changes = changes | {rip: struct.pack("<Q", struct.unpack("<Q", changes[rip])[0] - 2)}
        elsewhere = cpu.save()
        cpu.restore(task.context)
        try:
            self._write(changes)
            in_trap = task.context.in_trap
            cpu.save(task.context)
            task.context.in_trap = in_trap
        finally:
            cpu.restore(elsewhere)

    def _read(self, task: Task) -> list[bytes]:
        cpu = self._cpu
        general = cpu.gprs()
        image = cpu.fxsave()
        values = [struct.pack("<Q", value) for value in general[:17]]
        values.append(struct.pack("<I", general[17] & 0xFFFFFFFF))
        values += [struct.pack("<I", value) for value in _SEGMENTS.values()]
        values += [image[32 + 16 * number : 42 + 16 * number] for number in range(8)]
        values += [struct.pack("<I", value) for value in _control(image)]
        values += [image[160 + 16 * number : 176 + 16 * number] for number in range(16)]
        values.append(image[24:28])
        values.append(struct.pack("<Q", self._call_of(task)))
        values += [struct.pack("<Q", cpu.get(base)) for base in (regs.FS_BASE, regs.GS_BASE)]
        return values

    def _write(self, changes: dict[int, bytes]) -> None:
        cpu = self._cpu
        general = cpu.gprs()
        if any(number < 18 for number in changes):
            for number in range(18):
                if number in changes:
                    general[number] = int.from_bytes(changes[number], "little")
            cpu.set_gprs(general)
        image = bytearray(cpu.fxsave())
        before = bytes(image)
        for number, value in changes.items():
            name = REGISTERS[number].name
            if name.startswith("st"):
                at = 32 + 16 * int(name[2:])
                image[at : at + 10] = value
            elif name.startswith("xmm"):
                at = 160 + 16 * int(name[3:])
                image[at : at + 16] = value
            elif name == "mxcsr":
                image[24:28] = value
            elif name in ("fctrl", "fstat"):
                at = 0 if name == "fctrl" else 2
                image[at : at + 2] = value[:2]
            elif name == "ftag":
                image[4] = sum(
                    1 << i for i in range(8) if int.from_bytes(value, "little") >> 2 * i & 3 != _EMPTY
                )
            elif name in ("fs_base", "gs_base"):
                base = regs.FS_BASE if name == "fs_base" else regs.GS_BASE
                cpu.set(base, int.from_bytes(value, "little"))
        if image != before:
            cpu.fxrstor(bytes(image))


def _control(image: bytes) -> tuple[int, ...]:
    """Return the x87's control registers in gdb's order, out of an FXSAVE image."""
    control, status, abridged, _, opcode, instruction, data = struct.unpack_from("<HHBBHQQ", image)
    return (
        control,
        status,
        _tags(image, status, abridged),
        0,
        instruction & 0xFFFFFFFF,
        0,
        data & 0xFFFFFFFF,
        opcode,
    )


def _tags(image: bytes, status: int, abridged: int) -> int:
    """Return the whole tag word: two bits for each physical register."""
    top, tags = status >> 11 & 7, 0
    for physical in range(8):
        tag = _EMPTY
        if abridged >> physical & 1:
            at = 32 + 16 * ((physical - top) % 8)
            mantissa, exponent = struct.unpack_from("<QH", image, at)
            exponent &= 0x7FFF
            if exponent == 0x7FFF or exponent and not mantissa >> 63 or not exponent and mantissa:
                tag = _SPECIAL
            else:
                tag = _VALID if exponent or mantissa else _ZERO
        tags |= tag << 2 * physical
    return tags
