"""Functions of libc whose names another object takes by accident: it has something else under that name.

Programs replace parts of libc on purpose too: the replacement then is declared as libc's function is, and
where libc's makes a system call it comes to one.
Source: ISO C 7.1.3 (reserved identifiers); psABI 3.2.1, 3.2.3 (classes of arguments).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.meant import PRELOADS
from emu.core.errors import MemoryFault
from emu.elf import constants as c
from emu.elf.relocations import iter_rela
from emu.rtld.lookup import CLASS_PLT

if TYPE_CHECKING:
    from emu.analysis.bindings import Bindings, Exported, Use
    from emu.elf.prototypes import DebugPrototype
    from emu.process import Process
    from emu.rtld.link_map import LinkMap

_ASKS = (b"dlsym", b"dlvsym", b"syscall")
_LONGEST = 4096
"""Instructions of a function, with all that it calls in its object, that are gone through."""
_READ = 4096
_READ_ONLY = frozenset(("cmp", "test", "call", "jmp", "push", "nop", "bt", "comisd", "ucomisd", "prefetcht0"))
_INTEGERS = frozenset(("char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "bool"))
_FLOATS = frozenset(("float", "double"))
_POINTERS = {"str": "char *", "ptr": "void *"}


def accident(process: Process, bindings: Bindings, use: Use) -> str:
    """Return how the function that serves in the place of libc's is another; empty if it may be meant."""
    winner, own = use.winner, use.own
    if winner.info & 15 != c.STT_FUNC or own.info & 15 != c.STT_FUNC:
        return ""  # an IFUNC's code is its resolver's
    name = use.name.decode(errors="replace")
    theirs, mine = (process.symbols.prototype(_address(one)) for one in (winner, own))
    if theirs is not None and mine is not None:
        differs = _differ(theirs, mine)
        return f"{_written(name, theirs)} in the place of {_written(name, mine)}" if differs else ""
    if winner.map.found_by in PRELOADS or not _has_system_call(process, own):
        return ""
    if _Walk(process, bindings).may_reach_one(winner):
        return ""
    return f"it makes no system call, as {name} of libc does"


def _address(one: Exported) -> int:
    return one.map.addr + one.map.symtab.entry(one.number).value


def _differ(one: DebugPrototype, other: DebugPrototype) -> bool:
    """Whether two functions are called in different ways; widths of integers and what a pointer points to
    do not count, and types that are written as one thing and passed as another (unions) may be the same.
    What is behind "..." may be written out, as in open's third parameter.
    """
    if one.variadic == other.variadic:
        if len(one.parameters) != len(other.parameters):
            return True
    elif (
        len(one.parameters) < len(other.parameters)
        if other.variadic
        else len(one.parameters) > len(other.parameters)
    ):
        return True
    pairs = zip((one.returns, *one.parameters), (other.returns, *other.parameters), strict=False)
    classes = [(_class(a), _class(b)) for a, b in pairs]
    return any(a and b and a != b for a, b in classes)


def _class(kind: str) -> str:
    if kind in _INTEGERS:
        return "integer"
    if kind in _FLOATS or kind == "void":
        return kind
    return "pointer" if kind in _POINTERS or kind.endswith(("*", "&")) else ""


def _written(name: str, prototype: DebugPrototype) -> str:
    """Return a prototype as C has it."""
    kinds = [_POINTERS.get(kind, kind) for kind in prototype.parameters] + ["..."] * prototype.variadic
    result = _POINTERS.get(prototype.returns, prototype.returns)
    return f"{result}{'' if result.endswith('*') else ' '}{name}({', '.join(kinds) or 'void'})"


def _has_system_call(process: Process, one: Exported) -> bool:
    """Whether the code of a function has a SYSCALL instruction itself."""
    import capstone  # only where a function of libc is taken over

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = process.arena.read(_address(one), min(one.size, _READ))
    return any(mnemonic == "syscall" for _, _, mnemonic, _ in decoder.disasm_lite(code, 0))


class _Walk:
    """Goes through the code of a function, and of all that it calls, in whatever object."""

    def __init__(self, process: Process, bindings: Bindings) -> None:
        import capstone

        self._process, self._bindings = process, bindings
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._seen: set[int] = set()
        self._waiting: list[tuple[LinkMap, int]] = []

    def may_reach_one(self, one: Exported) -> bool:
        """Whether a function may come to a system call: also if that is unknown, or if it leaves no trace
        (stores nothing but on the stack), as one that stands in for libc's in a test does.
        """
        self._waiting = [(one.map, _address(one))]
        stores = False
        while self._waiting:
            map_, at = self._waiting.pop()
            while at not in self._seen:
                if len(self._seen) >= _LONGEST:
                    return True
                self._seen.add(at)
                try:
                    code = self._process.arena.read(at, 15)
                except MemoryFault:
                    return True
                _, size, mnemonic, operands = next(self._decoder.disasm_lite(code, at, 1), (0, 0, "", ""))
                if mnemonic in ("", "syscall"):
                    return True
                if mnemonic == "ret":
                    break
                stores |= _stores(mnemonic, operands)
                if mnemonic == "call" or mnemonic.startswith(("j", "bnd j", "notrack j")):
                    if not self._go(map_, operands, at + size):
                        return True
                    if "jmp" in mnemonic:
                        break
                at += size
        return not stores

    def _go(self, map_: LinkMap, operands: str, after: int) -> bool:
        """Follow a call or jump; false if nobody knows where it goes, or to what makes system calls."""
        if operands.startswith("0x"):
            self._waiting.append((map_, int(operands, 16)))
            return True
        slot = _slot(operands, after)
        for tag in (c.DT_JMPREL, c.DT_RELA) if slot is not None else ():
            for offset, info, _ in iter_rela(map_.table(self._process.arena, tag), map_.display_name):
                if map_.addr + offset != slot or not info >> 32:
                    continue
                found = self._bindings.bound(map_, info >> 32, CLASS_PLT)
                if found is None or map_.symtab.symbol_name(info >> 32) in _ASKS:
                    return False
                if found.info & 15 == c.STT_FUNC:
                    self._waiting.append((found.map, _address(found)))
                return True  # an IFUNC is one of the string functions
        return False


def _stores(mnemonic: str, operands: str) -> bool:
    """Whether an instruction writes memory other than the stack."""
    target = operands.partition(",")[0]
    return "[" in target and "[rsp" not in target and "[rbp" not in target and mnemonic not in _READ_ONLY


def _slot(operands: str, after: int) -> int | None:
    """Return the slot that an indirect call or jump goes through; None for another operand."""
    where, _, offset = operands.partition("[rip ")
    if not where.endswith("ptr ") or not offset:
        return None
    return after + int(offset.rstrip("]").replace(" ", ""), 16)
