"""emu explain with --: objects that dlopen brings, namespaces, objects that have gone; what slots hold;
what is no answer.
"""

from __future__ import annotations

import os

import pytest

from emu.glibc.release import rules_of
from tests.analysis.test_explain import (
    Answer,
    ask,
    base,
    changes,
    check_native,
    codes,
    explanation,
    run_explain,
    steps,
)

_DRIVEN = ("./main",)


def _driven(symbol: str, from_object: str | None, *script: str, at_exit: bool = False) -> Answer:
    fixture = "dl-scope-local-global"
    words = ("--from", from_object) if from_object else ()
    answer = ask(fixture, "./main", symbol, *words, *(("--at-exit",) if at_exit else ()), "--", *script)
    if not any(word.startswith(("global", "close")) for word in script[1:]):
        check_native(answer, fixture, (*_DRIVEN, *script), None)
    return answer


def test_an_opened_object_sees_the_global_scope_and_itself() -> None:
    one = explanation(_driven("who", "libc.so", "global:b", "global:a", "open:c"), "libc.so")
    assert [scope["kind"] for scope in one["scopes"]] == ["global", "local"]
    assert base(one["winner"]["object"]) == "libb.so"
    assert steps(one)["liba.so"] == ("interposed", "no-versions")
    told = changes(one)
    assert told["deepbind", "libc.so"] == "libc.so"
    assert told["no-global", "libb.so"] == "liba.so"
    assert told["preload", "liba.so"] == "liba.so"


def test_the_moment_is_when_the_object_is_there() -> None:
    script = ("open:a", "open:c", "global:b")
    early = explanation(_driven("who", "liba.so", *script), "liba.so")
    assert base(early["winner"]["object"]) == "liba.so"
    assert not early["bound_to"] or {base(name) for name in early["bound_to"]} == {"liba.so"}
    late = explanation(_driven("who", "liba.so", *script, at_exit=True), "liba.so")
    assert base(late["winner"]["object"]) == "libb.so"
    assert {base(name) for name in late["bound_to"]} == {"liba.so"}
    assert any("at the time" in remark for remark in late["remarks"])


def test_not_global_is_a_change() -> None:
    one = explanation(_driven("who", "libc.so", "open:a", "open:c"), "libc.so")
    assert base(one["winner"]["object"]) == "libc.so"
    assert changes(one)["global", "liba.so"] == "liba.so"


def test_deepbind_comes_first() -> None:
    one = explanation(_driven("who", "libc.so", "global:a", "deepbind:c"), "libc.so")
    assert [scope["kind"] for scope in one["scopes"]] == ["deepbind", "global"]
    assert "deepbind" in codes(one)
    assert changes(one)["no-deepbind", "libc.so"] == "liba.so"


def test_the_native_answer_to_deepbind() -> None:
    answer = ask("dl-deepbind", "./main", "shared_function()", "--from", "libdeep.so", "--")
    assert base(explanation(answer, "libdeep.so")["winner"]["object"]) == "libdeep.so"
    check_native(answer, "dl-deepbind", ("./main",), None)


def test_namespaces_have_scopes_of_their_own() -> None:
    answer = ask("dl-namespaces", "./main", "printf", "--at-exit")
    numbers = {one["namespace"] for one in answer["objects"]}
    assert len(numbers) > 1
    for one in answer["explanations"]:
        assert {step["namespace"] for scope in one["scopes"] for step in scope["steps"]} == {
            one["reference"]["namespace"]
        }
    kinds = {one["reference"]["namespace"]: one["scopes"][0]["kind"] for one in answer["explanations"]}
    assert kinds[0] == "global"
    assert {kind for number, kind in kinds.items() if number} <= {"namespace"}


def test_an_object_that_has_gone_is_named() -> None:
    done = run_explain("unload-gone", "./main", "data", "--from", "libp.so", "--at-exit")
    assert done.returncode == 1
    assert "libp.so has gone: it was unloaded" in done.stderr
    answer = ask("dl-namespaces", "./main", "next", "--at-exit")
    gone = {base(one["name"]): one["bound"] for one in answer["gone"]}
    assert any(text.startswith("bound to") and "libcounter.so" in text for text in gone["libuser.so"])


def test_a_gone_object_is_answered_for_while_it_is_there() -> None:
    answer = ask("unload-gone", "./main", "data", "--from", "libp.so", "--")
    assert base(explanation(answer, "libp.so")["winner"]["object"]) == "libp.so"
    assert "libp.so" in answer["moment"]


def test_the_program_goes_on_when_there_is_no_answer() -> None:
    done = run_explain("unload-gone", "./main", "no_such_symbol", "--from", "libp.so", "--")
    assert done.returncode == 1
    assert "no loaded object has a dynamic symbol no_such_symbol" in done.stderr
    assert done.stdout.endswith("dladdr: 0\n")


def test_the_guest_keeps_its_output() -> None:
    done = run_explain("weak-and-strong", "./main", "which", "--")
    assert done.stdout.startswith("1 10\nwhich\n")
    assert done.stderr == ""


def test_lazy_slots_are_bound_by_a_run() -> None:
    before = ask("weak-and-strong", "./main", "which")
    after = ask("weak-and-strong", "./main", "which", "--at-exit")
    assert [(slot["kind"], slot["state"]) for slot in before["slots"]] == [("plt", "lazy")]
    assert [(slot["kind"], slot["state"], base(slot["target"])) for slot in after["slots"]] == [
        ("plt", "bound", after["slots"][0]["target"].rpartition("/")[2])
    ]
    assert "libweak.so+" in after["slots"][0]["target"]
    assert "which" in after["slots"][0]["target"]


def test_slots_of_every_object_or_of_the_one_that_is_asked_for() -> None:
    slots = {("libx.so", "data", "bound"), ("libx.so", "got", "bound")}
    for words, more in ((("--from", "libx.so"), set()), ((), {("main", "copy", "bound")})):
        answer = ask("copy-relocation", "./main", "number", *words)
        assert {(base(s["object"]), s["kind"], s["state"]) for s in answer["slots"]} == slots | more


@pytest.mark.parametrize("relocation", ["DTPMOD64", "DTPOFF64", "TPOFF64", "TLSDESC"])
def test_tls_slots(relocation: str) -> None:
    fixture, symbol = _TLS[relocation]
    answer = ask(fixture, "./main", symbol)
    slots = [slot for slot in answer["slots"] if slot["relocation"] == f"R_X86_64_{relocation}"]
    assert slots
    assert {(slot["kind"], slot["state"]) for slot in slots} == {("tls", "bound")}
    assert all(slot["target"] for slot in slots)


_TLS = {
    "DTPMOD64": ("tls-model-global-dynamic", "common"),
    "DTPOFF64": ("tls-model-global-dynamic", "common"),
    "TPOFF64": ("tls-model-initial-exec", "shared"),
    "TLSDESC": ("tls-descriptors", "exported"),
}


def test_sizes_and_types_that_differ_are_remarked() -> None:
    answer = ask("explain-mismatch", "./main", "table")
    (copy,) = explanation(answer, "main", "R_X86_64_COPY")["remarks"]
    assert copy == "sizes differ: the copy has 8 bytes, the definition 16: 8 are copied"
    (other,) = explanation(answer, "libx.so")["remarks"]
    assert other.startswith("sizes differ: 8 bytes in ./main, 16 in ")
    (types,) = explanation(ask("explain-mismatch", "./main", "odd"), "main")["remarks"]
    assert types.startswith("types differ: the reference is to OBJECT, the definition is TLS")


def test_what_ends_the_linking_is_part_of_the_answer() -> None:
    answer = ask("error-undefined-symbol", "./main-data", "missing_data")
    assert "undefined symbol: missing_data" in answer["failure"]
    assert explanation(answer, "main-data")["winner"] is None
    lost = ask("versions-absent", "./main", "g", env={"LD_PRELOAD": "./bare/libv.so.1"})
    one = explanation(lost, "libuser.so")
    if rules_of(os.confstr("CS_GNU_LIBC_VERSION").split()[1]).lost_versions_accepted:  # type: ignore[union-attr]
        assert steps(one)["libv.so.1"][1] == "no-versions"
        return
    assert codes(one) == {"fatal"}
    assert steps(one)["libv.so.1"] == ("passed-over", "lost-version")


def test_without_a_reference_it_is_dlsym() -> None:
    (one,) = ask("link-hash-sysv", "./main", "printf")["explanations"]
    assert one["reference"]["kind"] == "dlsym"
    assert (one["winner"]["version"], one["winner"]["version_kind"]) == ("GLIBC_2.2.5", "default")
    (other,) = ask("versions-interposed", "./main", "f", "--version", "B", "--from", "libc.so.6")[
        "explanations"
    ]
    assert (other["reference"]["kind"], other["winner"]["version"]) == ("dlsym", "B")


def test_demangled_names() -> None:
    full = ask("hello-iostream", "./main", "std::ostream::flush()")
    assert full == ask("hello-iostream", "./main", "_ZNSo5flushEv")
    assert full == ask("hello-iostream", "./main", "std::ostream::flush")
    done = run_explain("hello-iostream", "./main", "std::ostream::write_all")
    assert done.returncode == 1
    assert "nearest: " in done.stderr
    ambiguous = run_explain("hello-iostream", "./main", "std::ostream::operator<<")
    assert ambiguous.returncode == 1
    assert "_ZNSolsEi  std::ostream::operator<<(int)" in ambiguous.stderr


def test_aliases_are_not_ambiguous() -> None:
    answer = ask("exit-order", "./main", "Noisy::~Noisy()")
    assert answer["symbol"] == "_ZN5NoisyD1Ev"
    assert answer["aliases"] == ["_ZN5NoisyD2Ev"]
    assert {ref["reference"]["kind"] for ref in answer["explanations"]} != {"dlsym"}
    other = ask("exit-order", "./main", "_ZN5NoisyD2Ev")
    assert other["aliases"] == ["_ZN5NoisyD1Ev"]


def test_objects_by_any_of_their_names() -> None:
    answers = [
        ask("copy-relocation", "./main", "number", "--from", word)
        for word in ("libx.so", "./libx.so", "../copy-relocation/libx.so")
    ]
    assert answers[0] == answers[1] == answers[2]
    done = run_explain("copy-relocation", "./main", "number", "--from", "liby.so")
    assert done.returncode == 1
    assert "no object liby.so is loaded; nearest: libx.so" in done.stderr


def test_what_is_not_exported_is_said() -> None:
    done = run_explain("link-visibility", "./main", "hidden")
    assert done.returncode == 0
    kept = done.stdout.partition(
        "Not exported: found by no look-up, and used by the object that has it alone"
    )[2]
    assert [line.split()[:2] for line in kept.splitlines()[1:3]] == [["main", "GLOBAL"], ["libx.so", "LOCAL"]]
    assert ask("link-visibility", "./main", "hidden")["explanations"] == []


@pytest.mark.parametrize("word", ["typeinfo for Api2", "Api2"])
def test_a_class_whose_typeinfo_nobody_exports(word: str) -> None:
    answer = ask("check-class-twice", "./cast", word)
    assert answer["symbol"] == "_ZTI4Api2" and answer["explanations"] == []
    assert [(os.path.basename(one["object"]), one["visibility"]) for one in answer["kept"]] == [
        ("cast", "HIDDEN"),
        ("libsdk.so", "DEFAULT"),
    ]
    done = run_explain("check-class-twice", "./cast", word)
    assert "! 2 objects for one type: libc++ compares their addresses" in done.stdout
    assert "kept" not in run_explain("check-class-twice", "./cast-open", word).stdout


def test_usage() -> None:
    done = run_explain("weak-and-strong", "./main", "which", "argument")
    assert done.stdout.startswith("1 10\nwhich\n"), "with arguments it runs"
    assert run_explain("weak-and-strong", "./main").returncode == 2


def test_a_static_program_looks_nothing_up() -> None:
    done = run_explain("static-exe", "./main", "main")
    assert done.returncode == 1
    assert "statically linked" in done.stderr
