"""From what the CPU met to the signal that Linux would send, and to a sentence for people.

Source: Linux arch/x86/mm/fault.c, arch/x86/kernel/traps.c; sigaction(2) for si_code.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.core.errors import MemoryFault, WildPointerError, place_of
from emu.core.record import NamedTuple
from emu.machine import regs
from emu.machine.arena import PAGE_SIZE, PROT_EXEC, PROT_READ, PROT_WRITE, Arena, physical
from emu.machine.engine import CpuException, PageFault

if TYPE_CHECKING:
    from emu.kernel.run.task import Task
    from emu.machine.engine import Cpu
    from emu.process.process import Process

SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGKILL, SIGSEGV = 4, 5, 7, 8, 9, 11
_NAMES = {SIGILL: "SIGILL", SIGTRAP: "SIGTRAP", SIGBUS: "SIGBUS", SIGFPE: "SIGFPE", SIGSEGV: "SIGSEGV"}
_SI_KERNEL = 0x80
_TRAP_BRKPT, _TRAP_TRACE, _TF = 1, 2, 0x100
_FLOATING = ((0x01, 7), (0x04, 3), (0x08, 4), (0x12, 5), (0x20, 6))
"""Bits of a floating-point status, the first that is set decides:
FPE_FLTINV, FLTDIV, FLTOVF, FLTUND (and denormals), FLTRES.
"""
_PF_PRESENT, _PF_WRITE, _PF_USER, _PF_FETCH = 1, 2, 4, 16
_EXCEPTIONS = {
    0: (SIGFPE, 1, "integer division by zero or overflow"),
    1: (SIGTRAP, _TRAP_TRACE, "single step"),
    3: (SIGTRAP, _SI_KERNEL, "breakpoint instruction"),
    4: (SIGSEGV, _SI_KERNEL, "overflow trap"),
    5: (SIGSEGV, _SI_KERNEL, "bound range exceeded"),
    6: (SIGILL, 2, "invalid instruction"),
    12: (SIGBUS, _SI_KERNEL, "a stack at a non-canonical address"),
    13: (SIGSEGV, _SI_KERNEL, "privileged instruction"),
    16: (SIGFPE, 7, "x87 floating-point exception"),
    17: (SIGBUS, 1, "misaligned access"),
    19: (SIGFPE, 7, "SSE floating-point exception"),
}
_CANONICAL = 1 << 47
_BLOCK, _WIDEST = 512, 32
"""Bytes of code that are looked through for an access, and of memory that an instruction accesses at most."""


class SignalFacts(NamedTuple):
    """A signal about to be raised: number, si_code, si_addr, trap number and error
    code of the sigcontext, for whom and why.
    """

    signo: int
    code: int
    address: int
    trapno: int
    error: int
    name: str
    access: str
    pc: int


def to_signal(outcome: PageFault | CpuException, cpu: Cpu, arena: Arena) -> SignalFacts:
    """Return the signal for a fault, with the exact address that was touched."""
    pc = cpu.get(regs.RIP)
    if isinstance(outcome, CpuException):
        signo, code, why = _EXCEPTIONS.get(
            outcome.vector, (SIGSEGV, _SI_KERNEL, f"exception {outcome.vector}")
        )
        if outcome.vector in (16, 19):
            code = _floating(cpu.fxsave(), x87=outcome.vector == 16)
        elif outcome.vector == 1 and not cpu.get(regs.RFLAGS) & _TF:
            code = _TRAP_BRKPT
        elif outcome.vector == 13 and not outcome.error:
            why = _wild_access(cpu, arena, pc) or why
        address = pc if code != _SI_KERNEL else 0
        return SignalFacts(signo, code, address, outcome.vector, outcome.error, _NAMES[signo], why, pc)
    address = outcome.address if outcome.address is not None else fault_address(outcome, cpu, arena, pc)
    if outcome.exhausted:  # as the kernel's OOM killer does
        return SignalFacts(SIGKILL, _SI_KERNEL, address, 14, _PF_USER, "SIGKILL", outcome.access, pc)
    if not -_CANONICAL <= _signed(address) < _CANONICAL:
        return SignalFacts(SIGSEGV, _SI_KERNEL, 0, 13, 0, "SIGSEGV", outcome.access, pc)
    error = _PF_USER | (
        _PF_WRITE if outcome.access == "write" else _PF_FETCH if outcome.access == "execute" else 0
    )
    if outcome.bus:
        return SignalFacts(SIGBUS, 2, address, 14, error, "SIGBUS", outcome.access, pc)
    code = 2 if outcome.mapped else 1
    present = outcome.mapped and arena.perm(physical(outcome.page) >> 12) & (
        PROT_READ | PROT_WRITE | PROT_EXEC
    )
    return SignalFacts(
        SIGSEGV,
        code,
        address,
        14,
        error | (_PF_PRESENT if present else 0),
        "SIGSEGV",
        outcome.access,
        pc,
    )


def _floating(image: bytes, *, x87: bool) -> int:
    """Return si_code for the unmasked exceptions in an FXSAVE image.

    Source: Linux arch/x86/kernel/fpu/core.c:fpu__exception_code.
    """
    control, status = struct.unpack_from("<HH", image)
    (mxcsr,) = struct.unpack_from("<I", image, 24)
    raised = status & ~control if x87 else mxcsr & ~(mxcsr >> 7)
    return next((code for bits, code in _FLOATING if raised & bits), 0)


def _wild_access(cpu: Cpu, arena: Arena, pc: int) -> str:
    """Return what the instruction that has raised #GP does with a
    non-canonical address, "" if it has none.
    """
    wild = [
        address for address in _operands(cpu, arena, pc) if not -_CANONICAL <= _signed(address) < _CANONICAL
    ]
    if not wild:
        return ""
    import capstone

    code = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code.detail = True
    operands = next(code.disasm(arena.read(pc, min(15, PAGE_SIZE - pc % PAGE_SIZE)), pc, 1)).operands
    memory = [operand.access for operand in operands if operand.type == capstone.x86.X86_OP_MEM]
    return "write" if memory and memory[0] & capstone.CS_AC_WRITE else "read"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def fault_address(fault: PageFault, cpu: Cpu, arena: Arena, pc: int) -> int:
    """Return the first byte of the faulting page that the instruction touched: Unicorn tells only the page.

    The operand's address is computed from the instruction; the address of an access that straddles two pages
    is the second page's start.
    """
    if fault.access == "execute":
        return pc if pc & -PAGE_SIZE == fault.page else fault.page
    for address in _operands(cpu, arena, pc):
        if address & -PAGE_SIZE == fault.page:
            return address
        if fault.page - PAGE_SIZE <= address < fault.page:
            return fault.page
    return fault.page


def instruction_at(cpu: Cpu, arena: Arena, address: int) -> int:
    """Return the program counter of the access to `address` that is going on in the block where the CPU is,
    or the block's if that cannot be told.
    """
    import capstone

    pc = cpu.get(regs.RIP)
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    size = _BLOCK if arena.check(pc, _BLOCK, 0) else PAGE_SIZE - pc % PAGE_SIZE
    for at, _, mnemonic, _ in decoder.disasm_lite(arena.read(pc, size), pc):
        if any(0 <= address - operand < _WIDEST for operand in _operands(cpu, arena, at)):
            return int(at)
        if mnemonic.startswith(("j", "call", "ret")):
            break
    return pc


def _operands(cpu: Cpu, arena: Arena, pc: int) -> list[int]:
    """Return the addresses of the memory operands of the instruction at `pc`, explicit and implied."""
    return [address for address, _ in accesses(cpu, arena, pc)]


def accesses(cpu: Cpu, arena: Arena, pc: int) -> list[tuple[int, int]]:
    """Return (address, bytes) of each memory operand of the instruction at `pc`, explicit and implied."""
    import capstone  # a well-kept decoder, wanted only when something has gone wrong
    from capstone import x86_const as x86

    size = min(15, PAGE_SIZE - (pc & 0xFFF)) if not arena.check(pc, 15, 0) else 15
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    instruction = next(decoder.disasm(arena.read(pc, size), pc, 1), None)
    if instruction is None:
        return []
    by_name = {name: register for register, name in regs.NAMES.items()}
    mask = (1 << 64) - 1

    def value(register: int) -> int:
        name = instruction.reg_name(register)
        if name == "rip":
            return int(pc + instruction.size)
        if name in by_name:
            return cpu.get(by_name[name])
        wide = {"e": "r"}.get(name[0], "") + name[1:] if name else ""
        return cpu.get(by_name[wide]) & 0xFFFFFFFF if wide in by_name else 0

    found = []
    for operand in instruction.operands:
        if operand.type != x86.X86_OP_MEM:
            continue
        memory = operand.mem
        address = memory.disp
        address += value(memory.base) if memory.base else 0
        address += value(memory.index) * memory.scale if memory.index else 0
        segment = instruction.reg_name(memory.segment) if memory.segment else ""
        address += (
            cpu.get({"fs": regs.FS_BASE, "gs": regs.GS_BASE}[segment]) if segment in ("fs", "gs") else 0
        )
        found.append((address & mask, operand.size))
    rsp = cpu.get(regs.RSP)
    name = instruction.mnemonic
    if name in ("push", "call", "enter", "pushfq"):
        found.append((rsp - 8 & mask, 8))
    elif name in ("pop", "ret", "leave", "popfq"):
        found.append((rsp if name != "leave" else cpu.get(regs.RBP), 8))
    if "movs" in name or "stos" in name or "lods" in name or "scas" in name or "cmps" in name:
        found += [(cpu.get(regs.RDI), 8), (cpu.get(regs.RSI), 8)]
    return found


def _overflows(process: Process, address: int) -> bool:
    """Whether `address` lies in the guard below the stack of the running thread, in
    whose block its TCB lies too.

    Source: glibc nptl/allocatestack.c: guard, stack, static TLS and TCB are one mapping.
    """
    guard = process.space.find(address)
    if guard is None or guard.prot:
        return False
    stack = process.space.find(guard.end)
    return stack is not None and stack.start <= process.thread_pointer() < stack.end


def describe_fault(
    signal: SignalFacts, outcome: PageFault | CpuException, process: Process, task: Task
) -> str:
    """Return what happened in the user's terms:
    access, address, where, and what the address is if it is anything.
    """
    where = process.symbols.where(signal.pc)
    if signal.access not in _VERBS:
        return f"{signal.access} at {where}"
    if isinstance(outcome, PageFault) and outcome.exhausted:
        budget = process.arena.budget
        used = f"{budget.pages * PAGE_SIZE >> 20} MiB touched and {budget.held >> 20} MiB in files"
        return (
            f"out of memory, {used} are all that --max-memory allows ({budget.limit >> 20} MiB); at {where}"
        )
    if signal.code == _SI_KERNEL:
        what = "a non-canonical address"
    elif isinstance(outcome, PageFault) and outcome.bus:
        area = process.space.find(signal.address)
        what = f"{signal.address:#x}, past the end of the file {area.name if area else ''}".rstrip()
    else:
        what = _what_is(signal.address, process, task)
    verb = _VERBS[signal.access]
    return f"{verb} {what}" if signal.access == "execute" else f"{verb} {what} at {where}"


_VERBS = {"read": "read of", "write": "write to", "execute": "jump to"}


def describe_hosted_fault(error: Exception, function: str, process: Process) -> str:
    """Return what a hosted function could not work with, in the terms of `describe_fault`."""
    assert process.runner is not None
    if isinstance(error, WildPointerError):
        return f"{error} ({function})"
    if isinstance(error, MemoryFault):
        return f"{_VERBS[error.access]} {_what_is(error.address, process, process.runner.task)} in {function}"
    return f"a fault of emu itself in {function}: {place_of(error)}; EMU_STRICT=1 shows more"


def _what_is(address: int, process: Process, task: Task) -> str:
    """Return an address that may not be touched, and what is there."""
    area = process.space.find(address)
    target = f"{address:#x}"
    if not -_CANONICAL <= _signed(address) < _CANONICAL:
        return "a non-canonical address"
    if address < PAGE_SIZE:
        return f"{target} (a null pointer)"
    if task is not process.task and _overflows(process, address):
        return f"{target} (the guard of its stack: stack overflow in thread {task.tid})"
    if area is not None and area.name == "[stack]" or process.symbols.near_stack(address):
        return f"{target} (the stack's end: stack overflow?)" if area is None else f"{target} (the stack)"
    if area is not None:
        mode = "".join(c if area.prot & bit else "-" for c, bit in (("r", 1), ("w", 2), ("x", 4)))
        return f"{target}, which is mapped {mode} ({process.symbols.area_name(address)})"
    if (gone := process.symbols.departed(address)) is not None:
        return f"{target}, which was {gone}"
    return f"{target}, which is not mapped"
