"""What must not run is refused or stopped with one line that names it; never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def _build(folder: Path, code: str, *flags: str) -> Path:
    (folder / "main.c").write_text(code)
    subprocess.run(["gcc", "-O1", *flags, "-o", "main", "main.c"], cwd=folder, check=True)
    return folder / "main"


def _run(program: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "emu", "run", *options, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        errors="replace",
    )


_ADD = "int main(int c, char **v) { volatile double a = c, b = 2.5; a = a + b; return (int)a; }"


def test_an_avx_instruction_is_named_with_its_place(tmp_path: Path) -> None:
    done = _run(_build(tmp_path, _ADD, "-mavx", "-g"))
    assert done.returncode == 125
    assert "VEX (AVX) instruction" in done.stderr
    assert "main.c:1" in done.stderr
    assert "build this with -march=x86-64-v2" in done.stderr


def test_the_same_program_without_avx_runs(tmp_path: Path) -> None:
    assert _run(_build(tmp_path, _ADD)).returncode == 3


def test_an_object_that_needs_x86_64_v3_is_refused(tmp_path: Path) -> None:
    program = _build(tmp_path, "int main(void) { return 0; }", "-Wl,-z,x86-64-v3")
    done = _run(program)
    assert done.returncode == 125
    assert "x86-64-v3" in done.stderr


_FAR = r"""
#include <sys/mman.h>
int main(void) {
    void *wanted = (void *)0x400000000000;
    return mmap(wanted, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}
"""


def test_an_address_where_there_is_no_memory_is_named(tmp_path: Path) -> None:
    done = _run(_build(tmp_path, _FAR), "-v")
    assert done.returncode == 0
    assert "mmap of 0x1000 bytes at 0x400000000000 is not supported" in done.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", 0), (b"#!/no/such/interpreter\n", 126), (b"\x7fELF" + bytes(100), 126), (b"text\n", 0)],
)
def test_what_is_no_program_gets_one_line(tmp_path: Path, content: bytes, code: int) -> None:
    program = tmp_path / "p"
    program.write_bytes(content)
    program.chmod(0o755)
    done = _run(program)
    assert done.returncode in (126, 127)
    assert code in (0, done.returncode, 126)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_time_limit(tmp_path: Path) -> None:
    done = _run(_build(tmp_path, 'int main(void) { for (;;) __asm__ volatile(""); }'), "--timeout", "0.3")
    assert done.returncode == 124
    assert "--timeout" in done.stderr


_settings = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_settings
@given(st.data())
def test_mutated_programs_end_without_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    good = tmp_path / "main"
    if not good.exists():
        _build(tmp_path, '#include <stdio.h>\nint main(void) { puts("x"); return 0; }')
    image = bytearray(good.read_bytes())
    dynamic_and_headers = 0x800
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(4, dynamic_and_headers))] = data.draw(st.integers(0, 255))
    bad = tmp_path / "bad"
    bad.write_bytes(image)
    bad.chmod(0o755)
    done = _run(bad, "--timeout", "10", "--max-memory", "1G")
    assert "Traceback" not in done.stderr, done.stderr


def test_profiling_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    done = _run(_build(tmp_path, "int main(void) { return 0; }"), "--env", "LD_PROFILE=libc.so.6")
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "unsupported LD_PROFILE (profiling)" in done.stderr


@pytest.mark.parametrize(
    ("options", "flags", "thing"),
    [
        (["--env", "LD_AUDIT=./auditor.so"], [], "LD_AUDIT"),
        ([], ["-Wl,--audit=auditor.so"], "DT_AUDIT"),
        ([], ["-Wl,--depaudit=auditor.so"], "DT_DEPAUDIT"),
        (["--env", "LD_AUDIT="], [], None),
    ],
)
@pytest.mark.parametrize("command", ["run"])
def test_a_listing_does_not_leave_auditors_out_without_a_word(
    tmp_path: Path, options: list[str], flags: list[str], thing: str | None, command: str
) -> None:
    program = _build(tmp_path, "int main(void) { return 0; }", *flags)
    trace = ["--env", "LD_TRACE_LOADED_OBJECTS=1"] if command == "run" else []
    done = subprocess.run(
        [sys.executable, "-m", "emu", command, *trace, *options, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if thing is None:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 125
        assert done.stderr.count("\n") == 1
        assert f"unsupported {thing} (auditing) in a listing of objects" in done.stderr


_NETWORK = r"""
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
static void reach(int family, const char *host) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
    inet_pton(family, host, family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
    void *address = family == AF_INET ? (void *)&v4 : (void *)&v6;
    socklen_t size = family == AF_INET ? sizeof v4 : sizeof v6;
    int number = socket(family, SOCK_STREAM, 0);
    if (connect(number, address, size) && errno == ENETUNREACH)
        puts(host);
}
int main(void) {
    reach(AF_INET, "192.0.2.1");
    reach(AF_INET, "192.0.2.1");
    reach(AF_INET6, "2001:db8::1");
    return socket(AF_PACKET, SOCK_RAW, 0) != -1 || errno != EAFNOSUPPORT;
}
"""


def test_the_hosts_network_is_out_of_reach_and_it_is_said_once_for_each_host(tmp_path: Path) -> None:
    program = _build(tmp_path, _NETWORK)
    assert _run(program).stderr == "", "what goes well needs no words"
    done = _run(program, "-v")
    assert (done.returncode, done.stdout) == (0, "192.0.2.1\n192.0.2.1\n2001:db8::1\n")
    told = [line for line in done.stderr.splitlines() if "reach" in line or "told" in line]
    why = "is out of reach: a program sees only its own loopback network"
    assert [line.partition(f" {why}")[0] for line in told[:2]] == [
        "emu: 192.0.2.1:80",
        "emu: [2001:db8::1]:80",
    ]
    assert "socket (41) of family AF_PACKET is not supported; the program was told EAFNOSUPPORT" in told[2]
    assert len(told) == 3
