"""Names come out as c++filt has them, and hostile ones come out."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.elf.demangle import demangle
from tests.elf.support import LIBSTDCXX


def test_every_symbol_of_libstdcxx() -> None:
    listed = subprocess.run(["nm", "-D", LIBSTDCXX], capture_output=True, text=True, check=True).stdout
    names = sorted({line.split()[-1].partition("@")[0] for line in listed.splitlines()})
    # --no-verbose: as __cxa_demangle and gdb write std::string and its like
    done = subprocess.run(
        ["c++filt", "--no-verbose"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    assert [demangle(name) for name in names] == done.stdout.splitlines()
    assert len(names) > 5000


def test_rusts_older_mangling() -> None:
    names = [
        "_ZN6touch05STATE28_$u7b$$u7b$constant$u7d$$u7d$28_$u7b$$u7b$closure$u7d$$u7d$17h55306553a58324bdE",
        "_ZN3std3sys12thread_local6native4lazy20Storage$LT$T$C$D$GT$16get_or_init_slow17h8993202360aa7d53E",
        "_ZN85_$LT$$LP$$RP$$u20$as$u20$std..sys..thread_local..native..lazy..DestroyedState$GT$13register_dtor17h9cceeed90f2ed1f8E",
        "_ZN4core3ptr38drop_in_place$LT$touch0..Noisy$GT$17h0a7b890144ef55ecE",
    ]
    done = subprocess.run(["c++filt", "--no-verbose", *names], capture_output=True, text=True, check=True)
    assert [demangle(name) for name in names] == done.stdout.splitlines()


def _doubling(levels: int) -> str:
    """f(a, b<a, a>, b<b<a, a>, b<a, a>>, ...): each argument is made of two of the one before."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name = "_Z1f1a1bIS_S_E"
    for level in range(levels):
        last = digits[level + 1] if level < 35 else f"1{digits[level - 35]}"
        name += f"S0_IS{last}_S{last}_E"
    return name


def test_substitutions_are_demangled_up_to_a_limit() -> None:
    assert demangle(_doubling(1)) == "f(a, b<a, a>, b<b<a, a>, b<a, a> >)"
    assert demangle(_doubling(60)) == _doubling(60)


_NO_NAMES = ["_Z", "_Z1f" + "P" * 100_000, "_ZN" + "1a" * 2000 + "E", "_Z\0", "_Z2\udcff", "f", ""]


@pytest.mark.parametrize("number", range(len(_NO_NAMES)))
def test_what_is_no_name_comes_back(number: int) -> None:
    name = _NO_NAMES[number]
    assert demangle(name) == name


@given(st.text(alphabet="_ZNKSTIEJDpt0123456789abcfilmPRFMXLsc", max_size=200))
def test_any_text_gives_a_text(text: str) -> None:
    assert isinstance(demangle("_Z" + text), str)


def test_rusts_v0_mangling() -> None:
    names = {
        "_RNvC6_123foo3bar": "123foo::bar",
        "_RNCINvNtC3foo3bar3bazmE0B6_": "foo::bar::baz::<u32>::{closure#0}",
        "_RNvMC0INtC8arrayvec8ArrayVechKj7b_E3new": "<arrayvec::ArrayVec<u8, 123>>::new",
        "_RNqCs4fqI2P2rA04_11utf8_identsu30____7hkackfecea1cbdathfdh9hlq6y": "utf8_idents::საჭმელად_გემრიელი_სადილი",
    }
    assert {name: demangle(name) for name in names} == names


@pytest.mark.parametrize(
    "name", ["_R", "_RNvC", "_Rust_function", "_RNvXsp_NtCs8vvnNNkWOIF_4core3fmtjNtB4_3Fmt"]
)
def test_what_only_looks_like_v0_stays(name: str) -> None:
    assert demangle(name) == name


def test_a_v0_name_that_means_a_gigabyte_stays() -> None:
    name, before = "_RIC1aThhE", "3_"
    for _ in range(40):
        here = len(name) - 2
        name += f"TB{before}B{before}E"
        before = _base62(here)
    name += "E"
    assert demangle(name) == name


def _base62(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if number == 0:
        return "_"
    number, text = number - 1, ""
    while True:
        text, number = digits[number % 62] + text, number // 62
        if not number:
            return f"{text}_"
