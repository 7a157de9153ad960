"""DWARF expressions: the stack machine by which unwind rules say what no register and offset can.

PLTs, signal trampolines and hand-written assembly use it. pyelftools decodes, this computes.
Source: DWARF 5 2.5; the operations about objects and types (2.6) have no meaning in unwind rules (6.4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from emu.core.errors import ElfError
from emu.core.record import NamedTuple
from emu.elf.pyelf import malformed

if TYPE_CHECKING:
    from emu.core.types import ReadableMemory

_M64 = (1 << 64) - 1
_STEPS = 4096
_DEPTH = 256


class Expression(NamedTuple):
    """Operations in order, and the index of each by its byte offset, which branches name."""

    operations: tuple[
        tuple[str, int, int, int], ...
    ]  # (name without DW_OP_, first and second operand, offset of the next)
    at: dict[int, int]


def parse_expression(data: Sequence[int], structs: Any, name: str) -> Expression:
    """Decode an expression with pyelftools' `structs`.

    Raises `ElfError` for operations that unwind rules cannot have.
    """
    from elftools.dwarf.dwarf_expr import DWARFExprParser

    with malformed(name, "expression"):
        parsed = DWARFExprParser(structs).parse_expr(data)
    ends = [operation.offset for operation in parsed] + [len(data)]
    operations = []
    for operation, end in zip(parsed, ends[1:], strict=True):
        arguments = [*operation.args, 0, 0][:2]
        word = operation.op_name.removeprefix("DW_OP_")
        if word.startswith("breg") and word != "bregx":
            word, arguments = "bregx", [int(word[4:]), arguments[0]]
        elif word.startswith("lit"):
            word, arguments = "const", [int(word[3:]), 0]
        elif word in _CONSTANTS:
            word = "const"
        elif word not in _BINARY and word not in _UNARY and word not in _OTHERS:
            raise ElfError(name, f"{operation.op_name} in an unwind rule")
        operations.append((word, arguments[0], arguments[1], end))
    return Expression(tuple(operations), {operation.offset: i for i, operation in enumerate(parsed)})


def evaluate(
    expression: Expression,
    registers: Sequence[int | None],
    memory: ReadableMemory,
    name: str,
    first: int | None = None,
) -> int:
    """Return the top of the stack at the end.

    `first`, if any, is on the stack at the start (the CFA, in rules for registers).

    Raises `ElfError` for an expression that is wrong or does not end, MemoryFault where it reads what is not
    there.
    """
    stack = [] if first is None else [first]
    at = 0
    try:
        for _ in range(_STEPS):
            if at == len(expression.operations):
                return stack[-1]
            word, a, b, end = expression.operations[at]
            at += 1
            if word == "bregx":
                stack.append(_register(registers, a, name) + b & _M64)
            elif word == "const":
                stack.append(a & _M64)
            elif word in _BINARY:
                right, left = stack.pop(), stack.pop()
                stack.append(_BINARY[word](left, right) & _M64)
            elif word in _UNARY:
                stack.append(_UNARY[word](stack.pop(), a) & _M64)
            elif word in ("deref", "deref_size"):
                size = 8 if word == "deref" else a
                if size not in (1, 2, 4, 8):
                    raise ElfError(name, f"DW_OP_deref_size of {size} bytes")
                stack.append(int.from_bytes(memory.read(stack.pop(), size), "little"))
            elif word in ("skip", "bra"):
                if word == "skip" or stack.pop():
                    at = (
                        len(expression.operations)
                        if end + a == expression.operations[-1][3]
                        else expression.at[end + a]
                    )
            else:
                _shuffle(stack, word, a)
            if len(stack) > _DEPTH:
                raise ElfError(name, "DWARF expression: its stack overflows")
    except (IndexError, KeyError, ZeroDivisionError) as error:
        why = {KeyError: "a branch to no operation", ZeroDivisionError: "a division by zero"}
        raise ElfError(name, f"DWARF expression: {why.get(type(error), 'its stack is empty')}") from None
    raise ElfError(name, "DWARF expression: it does not end")


def _register(registers: Sequence[int | None], number: int, name: str) -> int:
    value = registers[number] if 0 <= number < len(registers) else None
    if value is None:
        raise ElfError(name, f"unwind rule: the value of register {number} is unknown")
    return value


def _shuffle(stack: list[int], word: str, a: int) -> None:
    match word:
        case "dup":
            stack.append(stack[-1])
        case "drop":
            stack.pop()
        case "over":
            stack.append(stack[-2])
        case "pick":
            stack.append(stack[-1 - a])
        case "swap":
            stack[-1], stack[-2] = stack[-2], stack[-1]
        case "rot":
            stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _divide(left: int, right: int) -> int:
    quotient = abs(_signed(left)) // abs(_signed(right))
    return quotient if (_signed(left) < 0) == (_signed(right) < 0) else -quotient


_BINARY: dict[str, Callable[[int, int], int]] = {
    "and": lambda a, b: a & b,
    "div": _divide,
    "minus": lambda a, b: a - b,
    "mod": lambda a, b: a % b,
    "mul": lambda a, b: a * b,
    "or": lambda a, b: a | b,
    "plus": lambda a, b: a + b,
    "shl": lambda a, b: a << b if b < 64 else 0,
    "shr": lambda a, b: a >> b if b < 64 else 0,
    "shra": lambda a, b: _signed(a) >> min(b, 63),
    "xor": lambda a, b: a ^ b,
    "eq": lambda a, b: int(a == b),
    "ne": lambda a, b: int(a != b),
    "ge": lambda a, b: int(_signed(a) >= _signed(b)),
    "gt": lambda a, b: int(_signed(a) > _signed(b)),
    "le": lambda a, b: int(_signed(a) <= _signed(b)),
    "lt": lambda a, b: int(_signed(a) < _signed(b)),
}
_UNARY: dict[str, Callable[[int, int], int]] = {
    "abs": lambda top, _: abs(_signed(top)),
    "neg": lambda top, _: -top,
    "not": lambda top, _: ~top,
    "plus_uconst": lambda top, operand: top + operand,
}
_CONSTANTS = frozenset(
    "addr const1u const1s const2u const2s const4u const4s const8u const8s constu consts".split()
)
_OTHERS = frozenset("bregx deref deref_size skip bra nop dup drop over pick swap rot".split())
