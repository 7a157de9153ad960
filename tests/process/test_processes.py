"""Programs that start programs print in emu what they print natively, whatever the schedule."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emu

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}

SHELL = """
for i in 1 2 3; do echo $(echo sub $i | tr a-z A-Z); done
x=`ls / | head -3 | wc -l`; echo $x
(echo a; echo b; exit 3) | sort -r
false || echo no
sh -c 'exit 7'; echo $?
sleep 0.1 & wait $!; echo waited $?
trap 'echo exiting' EXIT
cat <<X | grep -c o
foo
bar
X
echo one > made; cat < made; rm made
trap 'echo term' TERM; kill -TERM $$; echo after
"""
MAKEFILE = "all: b\n\t@echo all done\nb:\n\t@echo making b; true\n\t@sh -c 'echo second'\n"
PERL = (
    'print `echo hi`, $?>>8, "\\n"; system("exit 5"); print $?>>8,"\\n"; $|=1; '
    'if(my $p=fork()){waitpid $p,0; print "parent $?\\n"}else{print "kid\\n"; exit 2}'
)
PYTHON = (
    "import os, subprocess; print(subprocess.run(['echo', 'hi'], capture_output=True)); "
    "print(subprocess.check_output('echo $((1+2))', shell=True)); pid = os.fork(); "
    "os._exit(3) if not pid else print(os.waitpid(pid, 0)[1]); "
    "print(subprocess.Popen(['cat'], stdin=-1, stdout=-1).communicate(b'through a pipe')[0])"
)
COMMANDS = {
    "bash": ["bash", "-c", SHELL],
    "dash": ["dash", "-c", SHELL],
    "make": ["make", "-f", "Makefile"],
    "perl": ["perl", "-e", PERL],
    "python3": ["python3", "-c", PYTHON],
    "xargs": ["sh", "-c", "echo a b c | xargs -n1 echo x"],
    "find": ["find", "/etc/passwd", "-exec", "basename", "{}", ";"],
    "tar": ["sh", "-c", "tar cf - Makefile | gzip -n | gzip -d | tar tf -"],
    "env": ["env", "-i", "A=1", "sh", "-c", "echo $A; exec printenv A"],
    "timeout": ["timeout", "-s", "KILL", "0.2", "sleep", "100"],
    "nohup": ["nice", "-n", "3", "sh", "-c", "nice; nproc >/dev/null; echo $0", "name"],
}


def _run(command: list[str], folder: Path) -> tuple[int, str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "Makefile").write_text(MAKEFILE)
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def _emu(*command: str) -> list[str]:
    return [sys.executable, "-m", "emu", "run", *command]


def _found(name: str) -> str:
    path = shutil.which(name, path=ENVIRONMENT["PATH"])
    assert path is not None, f"{name} is not installed"
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_output_and_status_are_the_native_ones(name: str, tmp_path: Path) -> None:
    program, *arguments = COMMANDS[name]
    command = [_found(program), *arguments]
    code, said, _ = _run(command, tmp_path / "native")
    expected = 128 - code if code < 0 else code
    assert _run(_emu(*command), tmp_path / "emu")[:2] == (expected, said)


@pytest.mark.parametrize("seed", range(1, 21))
def test_any_schedule_gives_the_same_output(seed: int, tmp_path: Path) -> None:
    command = [_found("dash"), "-c", SHELL]
    native = _run(command, tmp_path / "native")
    ours = _run(_emu("--schedule", "random", "--seed", str(seed), *command), tmp_path / "emu")
    assert ours[:2] == native[:2]


def test_the_same_seed_gives_the_same_trace(tmp_path: Path) -> None:
    command = _emu(
        "--trace",
        "syscalls,threads,sched",
        "--schedule",
        "random",
        "--seed",
        "5",
        _found("dash"),
        "-c",
        SHELL,
    )
    first, second = (_run(command, tmp_path / "emu")[2] for _ in range(2))
    assert "create process 1001" in first
    assert first == second


def _build(source: str, folder: Path) -> str:
    path = folder / "program"
    (folder / "program.c").write_text(source)
    subprocess.run(["gcc", "-O1", "-w", "-o", str(path), str(folder / "program.c")], check=True)
    return os.fspath(path)


def test_a_fork_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    program = _build(
        "#include <errno.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "int main(void) { int n = 0, c; while ((c = fork()) > 0) n++; if (!c) pause();"
        ' printf("%d %d\\n", n, errno == EAGAIN); return 0; }',
        tmp_path,
    )
    code, said, errors = _run(_emu("--max-processes", "5", program), tmp_path / "emu")
    assert (code, said) == (0, "4 1\n")
    assert "has ended before its processes 1001 (program), 1002 (program)" in errors


def test_a_pipe_that_nobody_will_write_to_is_a_deadlock(tmp_path: Path) -> None:
    program = _build(
        "#include <sys/wait.h>\n#include <unistd.h>\n"
        "int main(void) { int p[2]; char c; pipe(p); if (!fork()) read(p[0], &c, 1); wait(0); return 0; }",
        tmp_path,
    )
    code, _, errors = _run(_emu(program), tmp_path / "emu")
    assert code == 125
    assert "deadlock: all 2 threads of 2 processes wait" in errors
    assert "process 1000: thread 1000 (program) waits for child process 1001 (program)" in errors
    assert "process 1001: thread 1001 (program) waits to read from pipe:[" in errors


def test_a_fault_in_a_child_is_told_with_its_parent(tmp_path: Path) -> None:
    program = _build(
        "#include <sys/wait.h>\n#include <unistd.h>\n"
        "int main(void) { int s; if (!fork()) *(volatile int *) 16 = 1; wait(&s); return WTERMSIG(s); }",
        tmp_path,
    )
    code, _, errors = _run(_emu(program), tmp_path / "emu")
    assert code == 11
    assert "killed by SIGSEGV: write to 0x10" in errors
    assert "emu: that was process 1001, child of 1000 (program)" in errors


CONSTRUCTOR = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef LIBRARY
__attribute__((constructor)) static void begin(void) {
    int status, how = atoi(getenv("HOW"));
    if (!fork()) {
        if (how == 0) _exit(3);
        if (how == 1) execl("/bin/sh", "sh", "-c", "exit 4", (char *) 0);
        return;
    }
    wait(&status);
    printf("child %d\\n", WEXITSTATUS(status));
}
#else
int main(void) { return dlopen("./lib.so", RTLD_NOW) == 0; }
#endif
"""


@pytest.mark.parametrize(("how", "expected"), [(0, "child 3\n"), (1, "child 4\n")])
def test_fork_inside_a_constructor_under_dlopen(how: int, expected: str, tmp_path: Path) -> None:
    code, said, _ = _constructor(how, tmp_path)
    assert (code, said) == (0, expected)


def test_a_return_into_a_hosted_function_of_the_parent_is_named(tmp_path: Path) -> None:
    code, _, errors = _constructor(2, tmp_path)
    assert code == 125
    assert "return into" in errors
    assert "in a process that was forked inside it" in errors


def _constructor(how: int, folder: Path) -> tuple[int, str, str]:
    program = _build(CONSTRUCTOR, folder)
    (folder / "emu").mkdir()
    subprocess.run(
        [
            "gcc",
            "-shared",
            "-fPIC",
            "-w",
            "-DLIBRARY",
            "-o",
            str(folder / "emu/lib.so"),
            str(folder / "program.c"),
        ],
        check=True,
    )
    return _run(_emu("--env", f"HOW={how}", program), folder / "emu")


FOLLOWED = "echo x | cat; /bin/true"


@pytest.mark.parametrize(
    ("whom", "expected"), [("all", {"dash", "cat", "true"}), ("cat", {"dash", "cat"}), ("none", {"dash"})]
)
def test_a_trace_follows_whom_it_is_told(whom: str, expected: set[str], tmp_path: Path) -> None:
    command = _emu("--trace", "libs", "--follow", whom, _found("dash"), "-c", FOLLOWED)
    lines = _run(command, tmp_path / "emu")[2].splitlines()
    loaded = {line.split(" at ")[0].rpartition("/")[2] for line in lines if line.endswith("(program)")}
    assert loaded == expected


def test_json_lines_have_the_process(tmp_path: Path) -> None:
    command = _emu("--trace", "threads", "--trace-format", "jsonl", _found("dash"), "-c", FOLLOWED)
    records = [json.loads(line) for line in _run(command, tmp_path / "emu")[2].splitlines()]
    assert [r.get("pid") for r in records if r["event"] == "process_created"] == [None, None, None]
    assert [r["pid"] for r in records if r["event"] == "process_ended"] == [1001, 1002, 1003]


def test_ld_debug_writes_of_each_process_what_ld_so_does(tmp_path: Path) -> None:
    command = [_found("dash"), "-c", "cat /dev/null; exec true"]

    def said(prefix: list[str]) -> list[str]:
        errors = _run([*prefix, _found("env"), "LD_DEBUG=files", *command], tmp_path / "emu")[2]
        return [re.sub("0x[0-9a-f]+", "N", line.partition(":")[2]) for line in errors.splitlines()]

    assert said(_emu()) == said([])


def test_the_schedules_of_processes_are_not_explored(tmp_path: Path) -> None:
    program = _build("#include <unistd.h>\nint main(void) { fork(); return 0; }", tmp_path)
    code, _, errors = _run([sys.executable, "-m", "emu", "explore", program], tmp_path / "emu")
    assert code == 125
    assert "unsupported exploration of a program that makes processes" in errors


def test_a_snapshot_from_before_a_fork_is_restored(tmp_path: Path) -> None:
    source = (
        "#include <string.h>\n#include <sys/wait.h>\n#include <unistd.h>\n"
        "static int data = 3; static char big[100000];\n"
        "int forks(int x) { int s; data++; memset(big, x, sizeof big); pid_t c = fork();"
        " if (!c) { data += 100; memset(big, 9, 50000); _exit(data + big[10]); }"
        " waitpid(c, &s, 0); data *= 2; return WEXITSTATUS(s) * 1000 + data + big[99999]; }"
    )
    (tmp_path / "forks.c").write_text(source)
    library = os.fspath(tmp_path / "libforks.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, os.fspath(tmp_path / "forks.c")], check=True)
    with emu.Process() as process:
        forks = process.dlopen(library).forks
        snapshot = process.snapshot()
        first = forks(1), forks(2)
        assert first == (113009, 118020)
        later = process.snapshot()
        assert forks(3) == 128041
        process.restore(snapshot)
        assert (forks(1), forks(2)) == first
        process.restore(later)
        assert forks(3) == 128041


def test_no_snapshot_of_two_processes_and_none_is_left_of_those_that_are_undone(tmp_path: Path) -> None:
    source = (
        "#include <signal.h>\n#include <sys/wait.h>\n#include <unistd.h>\nstatic int value;\n"
        "int start(void) { value++; pid_t c = fork(); if (!c) { value = 50; pause(); } return c; }"
        "int end(int c) { int s; kill(c, 9); waitpid(c, &s, 0); return s * 100 + value; }"
    )
    (tmp_path / "two.c").write_text(source)
    library = os.fspath(tmp_path / "libtwo.so")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, os.fspath(tmp_path / "two.c")], check=True)
    with emu.Process() as process:
        two = process.dlopen(library)
        snapshot = process.snapshot()
        child = two.start()
        with pytest.raises(emu.StateError, match=rf"more than one process: there is also {child} \("):
            process.snapshot()
        process.restore(snapshot)
        assert two.start() == child
        assert two.end(child) == 901
        assert process.snapshot() is not None


_FAR = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
/* Where AddressSanitizer and valgrind have what they know of memory. */
static const unsigned long places[][2] = {
    {0x7fff8000, 0x10000000}, {0x2008fff7000, 0xdfff0001000}, {0x600000000000, 0x40000002000}, {0x310000000000, 0x10000}};
int main(int argc, char **argv) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, left = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 0; i < 4; i++) {
        char *at = (char *)places[i][0];
        if (mmap(at, places[i][1], i < 3 ? PROT_READ | PROT_WRITE : PROT_NONE, flags, -1, 0) != at) return 1;
        if (i < 3) at[0] = at[places[i][1] - 1] = 1;
    }
    printf("%d\n", left);
    fflush(stdout);
    if (left) {
        char next[8];
        snprintf(next, sizeof next, "%d", left - 1);
        execl(argv[0], argv[0], next, (char *)0);
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "for i in 1 2 3 4; do ./program; done"),  # each takes 20 of the 128 TiB that there are
        ("-c", "sh -c './program; ./program'; ./program"),
        ("-c", "exec ./program 4"),
    ],
)
def test_children_have_room_for_what_is_far_away(words: tuple[str, ...], tmp_path: Path) -> None:
    _build(_FAR, tmp_path)
    shell = _found("dash")
    native = _run([shell, *words], tmp_path)
    assert native[0] == 0 and native[1].count("0\n") >= 1
    assert _run(_emu(shell, *words), tmp_path) == native
