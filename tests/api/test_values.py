"""Structures by value, typed pointers and errcheck.

What the calls give is what the same calls from C print natively (ctypes itself is no judge: it dies of some
of these types).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

import emu
from tools import fixtures

_I, _L, _F, _D, _C = ctypes.c_int, ctypes.c_long, ctypes.c_float, ctypes.c_double, ctypes.c_ubyte


def _structure(name: str, *fields: tuple[str, Any], pack: int = 0, base: Any = ctypes.Structure) -> Any:
    return type(name, (base,), {**({"_pack_": pack} if pack else {}), "_fields_": list(fields)})


_INNER = _structure("inner", ("a", ctypes.c_short), ("b", _C * 2))
TYPES = [
    _structure("ints2", ("a", _I), ("b", _I)),
    _structure("longs2", ("a", _L), ("b", _L)),
    _structure("mixed", ("a", _D), ("b", _I)),
    _structure("floats2", ("a", _F), ("b", _F)),
    _structure("floats3", ("a", _F), ("b", _F), ("c", _F)),
    _structure("floats4", ("a", _F), ("b", _F), ("c", _I), ("d", _F)),
    _structure("doubles2", ("a", _D), ("b", _D)),
    _structure("number", ("a", _D), ("b", _L), base=ctypes.Union),
    _structure("packed", ("a", _C), ("b", _D), pack=1),
    _structure("large", ("a", _L), ("b", _L), ("c", _D)),
    _structure("bytes3", ("a", _C * 3)),
    _structure("nested", ("c", _INNER * 2), ("d", _F)),
]
LIBRARY = fixtures.CACHE / "api-values" / "libvalues.so"


class Node(ctypes.Structure):
    pass


Node._fields_ = [("value", ctypes.c_int), ("next", ctypes.c_void_p)]


@pytest.fixture(scope="module")
def lib(built_fixtures: object) -> Iterator[emu.Library]:
    with emu.Process() as process:
        yield process.dlopen(str(LIBRARY))


def _filled(type_: Any, seed: int) -> Any:
    size = ctypes.sizeof(type_)
    return type_.from_buffer_copy(bytes((seed + 7 * n) % 120 for n in range(size)))


def _members(value: Any) -> bytes:
    """The bytes without padding, which nobody promises."""
    if isinstance(value, ctypes.Array):
        return b"".join(
            _members(item) if not isinstance(item, (int, float)) else repr(item).encode() for item in value
        )
    if isinstance(value, (ctypes.Structure, ctypes.Union)):
        return b"".join(_members(getattr(value, name)) for name, *_ in value._fields_)
    return repr(value).encode()


@pytest.fixture(scope="module")
def native(built_fixtures: object) -> dict[tuple[str, int], bytes]:
    """What C gets, by type and argument."""
    (run,) = fixtures.load("api-values").runs
    lines = fixtures.run_native(run).stdout.decode().split("\n")
    return {
        (name, int(which)): bytes.fromhex(found)
        for name, which, found in (line.split() for line in lines if line)
    }


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.__name__)
def test_aggregates_travel_as_in_c(
    lib: emu.Library, native: dict[tuple[str, int], bytes], type_: Any, which: int
) -> None:
    function = lib[f"change_{type_.__name__}"]
    function.argtypes, function.restype = [_L] * 4 + [type_, _D, type_, _L, _I], type_
    got = function(1, 2, 3, 4, _filled(type_, 3), 2.0, _filled(type_, 50), 5, which)
    assert _members(got) == _members(type_.from_buffer_copy(native[type_.__name__, which]))


@pytest.mark.parametrize("type_", TYPES, ids=lambda t: t.__name__)
def test_callbacks_take_and_return_aggregates(lib: emu.Library, type_: Any) -> None:
    one, two = _filled(type_, 3), _filled(type_, 50)
    seen = []

    def function(number: int, first: Any, real: float, second: Any) -> Any:
        seen.append((number, _members(first), real, _members(second)))
        return second

    through = lib[f"through_{type_.__name__}"]
    prototype = emu.CFUNCTYPE(type_, _I, type_, _D, type_)
    through.argtypes, through.restype = [prototype, type_, type_], type_
    assert _members(through(prototype(function), one, two)) == _members(two)
    assert seen == [(7, _members(one), 2.5, _members(two))]


def test_typed_pointers_show_what_they_point_to(lib: emu.Library) -> None:
    head = lib["head"]
    head.restype = ctypes.POINTER(Node)
    node: Any = head()
    assert isinstance(node, emu.Pointer)
    assert node.contents.value == 1
    assert node[1].value == 2
    assert node.contents.next == int(node) + ctypes.sizeof(Node)
    node.contents.value = 40
    assert lib["head"]() & 0xFFFFFFFF == int(node) & 0xFFFFFFFF
    total = lib["sum"]
    prototype = emu.CFUNCTYPE(_L, ctypes.POINTER(Node))
    total.argtypes, total.restype = [prototype], _L
    assert total(prototype(lambda pointer: pointer.contents.value)) == 42
    node.contents.value = 1
    none = lib["none"]
    none.restype = ctypes.POINTER(Node)
    assert none() is None


def test_errcheck_has_the_last_word(lib: emu.Library) -> None:
    head = lib["head"]
    seen = []

    def check(result: Any, function: emu.Function, args: tuple[Any, ...]) -> Any:
        seen.append((function, args))
        if args:
            raise ValueError("no arguments, please")
        return result is not None

    head.errcheck = check
    assert head() is True
    assert seen == [(head, ())]
    with pytest.raises(ValueError, match="no arguments"):
        head(1)
    with pytest.raises(emu.ArgumentError, match="errcheck must be a function"):
        head.errcheck = 3  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("type_", "complaint"),
    [
        (_structure("empty"), "no members"),
        (_structure("real", ("a", ctypes.c_longdouble)), "lone long double"),
        (_structure("host", ("a", ctypes.c_char_p)), "pointer of the host"),
    ],
    ids=["empty", "long-double", "host-pointer"],
)
def test_what_cannot_travel_is_named(lib: emu.Library, type_: Any, complaint: str) -> None:
    with pytest.raises(emu.ArgumentError, match=complaint):
        lib["head"].restype = type_


def test_ctypes_functions_given_the_guests_name_what_to_use(lib: emu.Library) -> None:
    function, callback = lib["head"], emu.CFUNCTYPE(_I)(lambda: 3)
    # ctypes wraps the error in its own.
    with pytest.raises(ctypes.ArgumentError, match="emu.CFUNCTYPE"):
        ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]
    with pytest.raises(ctypes.ArgumentError, match="emu.CFUNCTYPE"):
        ctypes.CDLL(None).abs(callback)
    host_callback = ctypes.CFUNCTYPE(_I)(lambda: 3)
    for argtypes in (None, [ctypes.c_void_p]):
        function.argtypes = argtypes
        with pytest.raises(emu.ArgumentError, match="emu.CFUNCTYPE"):
            function(host_callback)
    with pytest.raises(emu.ArgumentError, match="emu.CFUNCTYPE"):
        function(lambda: 3)


@pytest.mark.parametrize(
    "thing",
    [
        lambda p: p,
        lambda p: p.dlopen("libc.so.6"),
        lambda p: p.dlopen("libc.so.6").abs,
        lambda p: emu.CFUNCTYPE(_I)(lambda: 3),
        lambda p: p.thread(),
        lambda p: p.memory,
        lambda p: emu.CFUNCTYPE(_I),
        lambda p: emu.Pointer(p.memory.new(b"cat"), ctypes.c_char, p.memory),
    ],
    ids=["process", "library", "function", "callback", "thread", "memory", "prototype", "pointer"],
)
def test_each_of_our_objects_tells_ctypes_what_to_use(thing: Any) -> None:
    with emu.Process() as process:
        ours = thing(process)
        for use in (
            lambda: ctypes.cast(ours, ctypes.POINTER(_I)),
            lambda: ctypes.string_at(ours),
            lambda: ctypes.memset(ours, 0, 1),
            lambda: ctypes.c_void_p.from_param(ours),
            lambda: ctypes.CDLL(None).abs(ours),
            lambda: ctypes.pointer(ours),
        ):
            with pytest.raises((ctypes.ArgumentError, emu.ArgumentError), match="emu.CFUNCTYPE"):
                use()
        for use in (
            lambda: _I.in_dll(ours, "environ"),
            lambda: ctypes.CFUNCTYPE(_I)(("abs", ours)),
        ):
            with pytest.raises(emu.ArgumentError, match="Library.in_dll"):
                use()
        # This names the type, which says it; of cast's second argument Python 3.13 says less.
        wanted = r"emu\.\w+: (pass it as it is|use|see|an emu.CFUNCTYPE makes) ?"
        with pytest.raises(TypeError, match=wanted):
            ctypes.byref(ours)
        with pytest.raises(TypeError, match=f"{wanted}|argument 2 must be a pointer type$"):
            ctypes.cast(5, ours)


@pytest.fixture
def libc() -> Iterator[emu.Library]:
    with emu.Process() as process:
        yield process.dlopen("libc.so.6")


def test_pointers_of_ctypes_lead_the_guest_to_a_copy_of_the_whole_object(libc: emu.Library) -> None:
    numbers, there = (_I * 4)(4, 3, 2, 1), ctypes.c_int(9)
    copy: Any = libc.memcpy
    copy.restype = ctypes.c_void_p
    pointer = ctypes.cast(numbers, ctypes.POINTER(_I))
    copy(pointer, ctypes.pointer(there), 4)
    assert list(numbers) == [9, 3, 2, 1]
    copy(ctypes.byref(numbers, 4), ctypes.byref(there), 4)
    assert list(numbers) == [9, 9, 2, 1]
    libc.memmove(ctypes.byref(numbers, 4), numbers, 12)  # one object in two arguments
    assert list(numbers) == [9, 9, 9, 2]
    pairs = (_structure("pair", ("a", _I), ("b", _I)) * 3)()
    libc.memset(ctypes.byref(pairs[1]), 1, 16)
    assert [pair.b for pair in pairs] == [0, 0x01010101, 0x01010101]
    copy.argtypes = [ctypes.POINTER(_I), ctypes.POINTER(_I), ctypes.c_size_t]
    copy(pointer, ctypes.pointer(there), 4)
    with pytest.raises(emu.ArgumentError, match="is no LP_c_int"):
        copy(ctypes.pointer(ctypes.c_long()), ctypes.pointer(there), 4)
    with pytest.raises(emu.ArgumentError, match="ctypes does not say which object"):
        copy(ctypes.cast(64, ctypes.POINTER(_I)), None, 0)


class Doubled:
    """A converter, as argtypes may have."""

    @classmethod
    def from_param(cls, value: int) -> Any:
        return _I(2 * value)


class Number:
    """An object that stands for an integer in calls."""

    _as_parameter_ = -7


class Mine(ctypes.c_int):
    pass


def test_what_stands_for_a_value_as_ctypes_has_it(libc: emu.Library) -> None:
    for absolute in (ctypes.CDLL(None).abs, libc.abs):
        function: Any = absolute
        assert function.__name__ == "abs"
        assert function(Number()) == 7
        function.argtypes = [Doubled]
        assert function(-4) == 8
        function.argtypes, function.restype = [_I], Mine
        got = function(Number())
        assert (type(got), got.value) == (Mine, 7)


@pytest.mark.parametrize(
    ("use", "complaint"),
    [
        (lambda lib: setattr(lib.abs, "argtypes", _I), "is no list of types"),
        (lambda lib: setattr(lib.abs, "argtypes", [int]), "int'> is no ctypes type"),
        (lambda lib: lib.abs(lambda: 3), "emu.CFUNCTYPE"),
        (
            lambda lib: emu.CFUNCTYPE(_I)(5),  # type: ignore[arg-type]
            "5 is no function of Python's",
        ),
        (lambda lib: lib.in_dll(int, "environ"), "int'> is no ctypes type"),
        (lambda lib: lib[0], "0 is no name of a symbol"),
        (lambda lib: lib.process.dlopen(5), "dlopen=5 is no path"),
    ],
)
def test_what_ctypes_would_take_otherwise_is_named(libc: emu.Library, use: Any, complaint: str) -> None:
    with pytest.raises(emu.ArgumentError, match=complaint):
        use(libc)


def test_a_missing_function_names_the_nearest(libc: emu.Library) -> None:
    with pytest.raises(
        emu.SymbolNotFoundError, match="no symbol prinf in it or what it needs; nearest: .*printf"
    ):
        _ = libc.prinf


def test_a_typed_pointer_never_gets_to_ctypes_as_an_address_of_the_host(lib: emu.Library) -> None:
    head = lib["head"]
    head.restype = ctypes.POINTER(Node)
    node: Any = head()
    for reach in (
        lambda: ctypes.cast(node, ctypes.c_void_p),
        lambda: ctypes.string_at(node, 4),
        lambda: ctypes.memmove(node, b"1234", 4),
        lambda: ctypes.CDLL(None).abs(node),
    ):
        with pytest.raises(ctypes.ArgumentError, match="is in the guest, where ctypes cannot reach"):
            reach()
    for refused in (ctypes.addressof, ctypes.sizeof, ctypes.c_void_p, Node.from_address):
        with pytest.raises(TypeError):
            refused(node)
    assert (node == node.address, node == head(), hash(node)) == (True, True, hash(int(node)))


def test_a_typed_pointer_is_an_address_to_the_guest_and_to_its_memory() -> None:
    with emu.Process() as p:
        libc = p.dlopen("libc.so.6")
        libc.strdup.restype = ctypes.POINTER(ctypes.c_char)
        text: Any = libc.strdup(b"cat")
        for argtypes in (None, [ctypes.c_void_p], [ctypes.POINTER(ctypes.c_char)]):
            libc.strlen.argtypes = argtypes
            assert libc.strlen(text) == 3
        p.memory.write(text, b"h")
        assert (p.memory.read(text, 2), p.memory.cstring(text)) == (b"ha", b"hat")
        assert bytes(p.memory.view(ctypes.c_char * 4, text)) == b"hat\0"
        with pytest.raises(emu.MemoryAccessError):
            p.memory.free(text)


def test_what_is_not_there_is_told_of_by_the_names_of_the_classes(lib: emu.Library) -> None:
    head = lib["head"]
    head.restype = ctypes.POINTER(Node)
    process = lib.process
    things: list[tuple[Any, str]] = [
        (process, "Process"),
        (process.memory, "Memory"),
        (head, "Function"),
        (head(), "Pointer"),
    ]
    for thing, kind in things:
        with pytest.raises(
            AttributeError, match=rf"^'emu\.{kind}' object has no attribute 'adress'$"
        ) as told:
            _ = thing.adress
        assert (told.value.name, told.value.obj) == ("adress", thing)  # Python's nearest name is by these


def test_an_attribute_error_within_a_property_keeps_its_words() -> None:
    class Asked(emu.Process):
        @property
        def wrong(self) -> object:
            return None.nothing  # type: ignore[attr-defined] # what is tried

    with (
        Asked() as process,
        pytest.raises(AttributeError, match="'NoneType' object has no attribute 'nothing'"),
    ):
        getattr(process, "wrong")  # noqa: B009 # which only the subclass has


def test_what_addressof_and_sizeof_are_for_is_asked_of_the_objects(lib: emu.Library) -> None:
    head = lib["head"]
    head.restype = ctypes.POINTER(Node)
    node: Any = head()
    assert ctypes.sizeof(node.contents) == ctypes.sizeof(Node)
    assert lib.process.memory.view(Node, node.address).value == node.contents.value
    assert lib.symbol("head").size and lib.symbol("head").address == lib["head"].address
