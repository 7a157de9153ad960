"""Calls both ways: arguments, results, exceptions, errors, and what the process is worth after each."""

from __future__ import annotations

import ctypes

import pytest

import emu
from emu.elf.demangle import demangle


class Pair(ctypes.Structure):
    _fields_ = [("first", ctypes.c_int), ("second", ctypes.c_int)]


def test_arguments_beyond_the_registers_go_to_the_stack_in_order(lib: emu.Library) -> None:
    i, d, f = ctypes.c_int, ctypes.c_double, ctypes.c_float
    lib.weigh.argtypes, lib.weigh.restype = [i] * 7 + [d, i, f], d
    assert lib.weigh(1, 2, 3, 4, 5, 6, 7, 8.0, 9, 10.0) == 385.0


def test_structures_go_by_reference_and_come_back(lib: emu.Library) -> None:
    pair = Pair(1, 2)
    lib.swap(ctypes.byref(pair))
    assert (pair.first, pair.second) == (2, 1)
    lib.swap.argtypes = [ctypes.POINTER(Pair)]
    lib.swap(pair)
    assert (pair.first, pair.second) == (1, 2)
    with pytest.raises(emu.ArgumentError, match="is no LP_Pair"):
        lib.swap((ctypes.c_int * 2)())


def test_char_pointers_both_ways(p: emu.Process, lib: emu.Library) -> None:
    lib.greeting.restype = ctypes.c_char_p
    assert lib.greeting() == b"hello"
    strlen = p.function("strlen")
    assert strlen(b"four") == strlen("four") == 4


def test_what_is_passed_leaves_no_copies_behind(p: emu.Process, lib: emu.Library) -> None:
    strlen = p.function("strlen")
    strlen(b"once")
    before = len(p.rtld.heap._sizes)
    for _ in range(100):
        strlen(b"again")
    assert len(p.rtld.heap._sizes) == before


@pytest.mark.parametrize(
    ("how", "type_name", "what"),
    [
        (1, "std::runtime_error", "no such basket"),
        (2, "int", None),
        (
            3,
            demangle("_ZTINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE").removeprefix(
                "typeinfo for "
            ),
            None,
        ),
        (4, "shop::Refused", "refused"),
        (5, "std::out_of_range", "too far"),
    ],
)
def test_exceptions_reach_python_after_the_clean_ups(
    lib: emu.Library, capfd: pytest.CaptureFixture[str], how: int, type_name: str, what: str | None
) -> None:
    with pytest.raises(emu.GuestException) as caught:
        lib.fail(how)
    assert (caught.value.type_name, caught.value.what) == (type_name, what)
    assert capfd.readouterr().out == "  cleaned up\n"
    assert lib.in_flight() == 0


def test_exceptions_in_a_thread(p: emu.Process, lib: emu.Library) -> None:
    with p.thread() as t:
        with pytest.raises(emu.GuestException, match="std::runtime_error: no such basket"):
            t.call(lib.fail, 1)
        assert t.call(lib.fail, 0) == 0


def test_callbacks_with_doubles(lib: emu.Library) -> None:
    scale = emu.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int)
    lib.apply.argtypes, lib.apply.restype = [scale, ctypes.c_double, ctypes.c_int], ctypes.c_double
    assert lib.apply(scale(lambda x, n: x * n), 2.5, 3) == 8.5


def test_callbacks_call_the_guest_again(lib: emu.Library) -> None:
    again = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    lib.descend.argtypes = [again, ctypes.c_int]

    @again
    def deeper(n: int) -> int:
        return int(lib.descend(deeper, n)) + 1

    assert lib.descend(deeper, 40) == 40


def test_recursion_without_end_is_pythons_error_and_does_no_harm(lib: emu.Library) -> None:
    again = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    lib.descend.argtypes = [again, ctypes.c_int]

    @again
    def deeper(n: int) -> int:
        return int(lib.descend(deeper, n + 2))

    with pytest.raises(RecursionError):
        lib.descend(deeper, 1)
    assert lib.fail(0) == 0


def test_an_error_in_a_callback_reaches_the_caller(lib: emu.Library) -> None:
    scale = emu.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int)
    lib.apply.argtypes, lib.apply.restype = [scale, ctypes.c_double, ctypes.c_int], ctypes.c_double

    def refuses(x: float, n: int) -> float:
        raise ValueError(f"not {x}")

    with pytest.raises(ValueError, match=r"not 2\.5"):
        lib.apply(scale(refuses), 2.5, 3)
    assert lib.fail(0) == 0


def test_an_exception_passes_through_python(lib: emu.Library) -> None:
    scale = emu.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_int)
    lib.apply.argtypes = [scale, ctypes.c_double, ctypes.c_int]
    with pytest.raises(emu.GuestException, match="no such basket"):
        lib.apply(scale(lambda x, n: float(lib.fail(1))), 2.5, 3)


def test_callbacks_die_with_their_objects(p: emu.Process) -> None:
    compare = emu.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    qsort = p.function("qsort")
    qsort.argtypes, qsort.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, compare], None
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    free = len(p.engine._free)
    for _ in range(50):
        qsort(
            numbers,
            3,
            4,
            compare(lambda a, b: p.memory.view(ctypes.c_int, a).value - p.memory.view(ctypes.c_int, b).value),
        )
    assert list(numbers) == [1, 2, 3]
    assert len(p.engine._free) == free


def test_thread_local_data_are_the_threads_own(p: emu.Process, lib: emu.Library) -> None:
    lib.in_dll(ctypes.c_int, "level").value = 9
    assert lib.get_level() == 9
    with p.thread() as t:
        assert t.call(lib.get_level) == 5


def test_the_death_of_the_guest_says_where(p: emu.Process, lib: emu.Library) -> None:
    with pytest.raises(emu.GuestFault, match=r"SIGSEGV.*read of 0x0 \(a null pointer\)") as caught:
        lib.read_at(None)
    assert caught.value.signal == 11
    assert caught.value.backtrace[0].function == "read_at"
    with pytest.raises(emu.ClosedError, match="ended with status 139"):
        lib.fail(0)
    assert p.ended


def test_a_death_at_the_end_leaves_the_with_block() -> None:
    def die_at_exit() -> emu.Process:
        process = emu.Process()
        libc = process.dlopen("libc.so.6")
        libc.on_exit(libc.abort, None)
        return process

    with pytest.raises(emu.GuestFault, match="SIGABRT") as caught, die_at_exit() as p:
        pass
    assert (caught.value.signal, p.status) == (6, 134)
    assert "abort" in [frame.function for frame in caught.value.backtrace]
    p.close()
    with pytest.raises(emu.GuestFault):
        die_at_exit().close()
    with pytest.raises(ValueError, match="mine"), die_at_exit() as p:
        raise ValueError("mine")
    assert p.ended


def test_exit_in_a_call_ends_the_process(p: emu.Process, lib: emu.Library) -> None:
    with pytest.raises(emu.ProcessEnded) as caught:
        lib.leave(3)
    assert caught.value.status == p.status == 3


def test_an_exception_says_where_it_was_thrown(lib: emu.Library) -> None:
    with pytest.raises(emu.GuestException) as caught:
        lib.fail(1)
    frames = caught.value.backtrace
    assert frames[0].level == 0 and frames[0].file.endswith("plugin.cc") and frames[0].line
    assert not any(frame.function.startswith(("__cxa_throw", "_Unwind_")) for frame in frames)
    assert any(frame.object == "[Python]" and frame.file == __file__ for frame in frames)
    assert f"thrown here:\n    #0 {frames[0].function} ({frames[0].file}:{frames[0].line})" in str(
        caught.value
    )


def test_errors_say_which_object_and_why(p: emu.Process, lib: emu.Library) -> None:
    with pytest.raises(emu.SymbolNotFoundError, match=r"\./libplugin\.so: no symbol nothing"):
        lib.nothing  # noqa: B018
    assert not hasattr(lib, "nothing")
    with pytest.raises(emu.NotAFunctionError, match="answer is data"):
        lib.answer()
    with pytest.raises(emu.ArgumentError, match="argument 1: 0x10000000000 does not fit"):
        lib.fail(1 << 40)
    with pytest.raises(OSError, match="cannot open shared object file"):
        p.dlopen("./nothing.so")
    with pytest.raises(emu.MemoryAccessError, match="0x10 is not mapped"):
        p.memory.read(0x10, 4)
    fail = lib.fail
    lib.close()
    with pytest.raises(emu.ClosedError, match="is closed"):
        fail(0)
    with pytest.raises(emu.ClosedError, match="closed already"):
        lib.close()


def test_memory_of_an_unloaded_library_says_so(p: emu.Process, lib: emu.Library) -> None:
    where = lib.symbol("answer").address
    lib.close()
    with pytest.raises(
        emu.MemoryAccessError, match=r"\./libplugin\.so\+0x\w+ in answer, unloaded at #\d+ by dlclose"
    ):
        p.memory.read(where, 4)


def test_a_deadlock_is_told_and_can_be_ended(p: emu.Process, lib: emu.Library) -> None:
    lock, unlock = p.function("pthread_mutex_lock"), p.function("pthread_mutex_unlock")
    lock.argtypes = unlock.argtypes = [ctypes.c_void_p]
    mutex = p.memory.new(bytes(40))
    lock(mutex)
    with p.thread("waits") as t:
        with pytest.raises(emu.DeadlockError, match=r"\(waits\) waits on a futex .* held by thread 1000"):
            t.call(lock, mutex)
        with pytest.raises(emu.StateError, match="in another call"):
            t.call(lib.fail, 0)
        assert unlock(mutex) == 0
    assert len(p.threads) == 1
