"""What a plugin's author writes: the tests read as they would with ctypes, and
say what no native test can.
"""

from __future__ import annotations

import ctypes

import pytest

import emu


def test_the_answer(lib: emu.Library) -> None:
    assert lib.in_dll(ctypes.c_int, "answer").value == 42


def test_a_basket_counts(lib: emu.Library) -> None:
    lib.basket_new.restype = ctypes.c_void_p
    lib.basket_add.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.basket_delete.argtypes, lib.basket_delete.restype = [ctypes.c_void_p], None
    basket = lib.basket_new()
    assert lib.basket_add(basket, 2) == 2
    assert lib.basket_add(basket, 3) == 5
    get = lib["shop::Basket::get() const"]
    get.argtypes = [ctypes.c_void_p]
    assert get(basket) == 5
    lib.basket_delete(basket)


def test_refusal_is_an_exception(lib: emu.Library) -> None:
    with pytest.raises(emu.GuestException, match="no such basket") as caught:
        lib.fail(1)
    assert caught.value.type_name == "std::runtime_error"
    assert lib.fail(0) == 0


def test_a_thread_keeps_the_plugin_until_it_ends(p: emu.Process, lib: emu.Library) -> None:
    lib.touch.argtypes = [ctypes.c_int]
    with p.thread("worker") as t:
        assert t.call(lib.touch, 42) == 42
        lib.close()
        why = p.why_loaded("libplugin.so")
        (reason,) = why
        assert why.kept and reason.kind == "tls-destructors"
        (pending,) = reason.destructors
        assert (pending.type, pending.thread.name, pending.thread.what) == (
            "shop::Noisy",
            "worker",
            "for Python",
        )
        assert pending.registered is not None
        frames = [(f.function, f.object) for f in pending.registered.backtrace]
        assert ("touch", "./libplugin.so") in frames
        assert frames[-1] == ("test_a_thread_keeps_the_plugin_until_it_ends", "[Python]")
        assert [one.code for one in why.remedies] == ["end-thread"]
    assert [e.name for e in p.events("dtor")] == ["dtor_registered", "dtor_run", "dtor_done"]
    why = p.why_loaded("libplugin.so")
    assert [reason.kind for reason in why] == ["never-collected"] and not why.kept


def test_unloads_when_nothing_holds_it(p: emu.Process, lib: emu.Library) -> None:
    assert "libplugin.so" in p.link_maps
    lib.close()
    assert "libplugin.so" not in p.link_maps
    assert not lib.loaded
