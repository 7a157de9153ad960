"""The system's own programs print in emu what they print natively:
one command line each, run without a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}

COMMANDS = r"""
cat -A words empty absent
stat -L -c '%n %s %W %w %Y %i' /etc/passwd /usr /bin
tac words
rev words
nl -ba words
head -n 3 words numbers
head -c -5 words
tail -n +3 words
tail -c 7 words
wc words numbers empty
sort words
sort -rn numbers
sort -t: -k2,2n -k1 table
sort -u -f words
uniq -c words
cut -d: -f1,3 table
paste -d, words numbers
join -t: table table
comm words numbers
tr a-z A-Z < words
tr -d '[:space:]' < words
fold -w 7 words
fmt -w 20 text
expand -t 4 text
unexpand -a text
od -A x -t x1z -v binary
od -t f8 -N 64 binary
base64 -w 40 binary
base32 words
basenc --z85 binary
md5sum words binary
sha1sum words
sha256sum words binary empty
sha512sum text
b2sum text
cksum words binary
sum words
split -n l/2/3 words
seq -w 1 3 20
seq 0.1 0.3 2
factor 12345678901234567890 97 1024
expr 7 '*' 6 + 1
expr match abcdef 'b.*d'
printf '%05d|%-8s|%x|%e\n' 42 ab 255 3.14159
echo -e 'a\tb\x41'
numfmt --to=iec 1234567 1024 999
date -d @86400 '+%F %T %j %A'
date -d '2024-02-29 +1 year' +%c
basename /usr/lib/x.so .so
dirname /usr/lib/x.so
realpath -m tree/../tree/./a/../b --relative-to=.
readlink tree/link
pathchk -p 'a b'
stat -c '%n %s %F %a' tree/a words
ls -1F tree
ls -lR --time-style=+%F tree
ls absent
du -ab tree/d
dd if=words bs=5 skip=1 count=2 status=none
test -f words
[ 3 -gt 5 ]
true
false
env -i A=1 B=2
printenv HOME
uname -s
id -u
tsort pairs
ptx -w 40 words
pr -t -2 -l 10 words
shuf -i 1-5 --random-source=binary
mkdir tree
rmdir tree
rm absent
cp absent new
chmod -v 640 words
tee out < words
grep -n a words
grep -c . words numbers
grep -vE '^(one|two)$' words
grep -oP '(?<=o)\w+' words
grep -r in.a tree words
grep -i -A1 -B1 THREE words
grep -w -f patterns words
grep x words
sed s/o/0/g words
sed -n '2,4p;$=' words
sed -E 's/(.)(.)/\2\1/;y/abc/xyz/' words
sed -e ':a;N;$!ba;s/\n/,/g' words
awk -F: '{s+=$2}END{print s;printf("%.3f\n",s/3)}' table
awk 'BEGIN{for(i=0;i<5;i++)print i,sqrt(i),sin(i),exp(i),log(i+1),atan2(i,2)}'
awk '{print length($0),toupper($0),substr($0,2,3),index($0,"e");n[$0]++}END{print n["one"]}' words
find tree -type f -name '[b]*' -printf '%P %s %m\n'
find tree -maxdepth 1 -type l
find tree absent -size -2 -name b
diff words words2
diff -u --label a --label b words words2
diff -rq tree tree2
diff -y -W 30 words words2
cmp -l words words2
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - tree
tar tvf archive.tar --full-time --numeric-owner
tar xOf archive.tar tree/a
gzip -9nc words
gzip -cd words.gz
gzip -tv words.gz
perl -e 'print join(",",map{$_**2}1..10),"\n"'
perl -ne 'print if /o/' words
perl -e 'printf("%s %s\n",$_,sprintf("%.15g",sqrt($_))) for 1..5'
perl -e '@a=sort{$b<=>$a}(3,10,2);print "@a\n";%h=(a=>1,b=>2);print join(",",map{"$_$h{$_}"} sort keys %h),"\n"'
perl -e 'print pack("NnCa4",1,2,3,"abcd")'
perl -e 'print "before\n"; die "gone\n"'
bash -c 'echo $((2**40)) ${#PATH}; for i in {1..3}; do printf %s- $i; done; echo'
bash -c 'a=("x y" z); echo "${a[@]:1}" "${a[*]/x/w}"; declare -A m=([k]=v); echo ${m[k]} ${a[0]^^}'
bash -c '[[ abc =~ b(.) ]] && echo ${BASH_REMATCH[1]}; case x in [a-z]) echo yes;; esac'
bash -c 'while read -r l; do echo "<$l>"; done < words; printf "%q\n" "a b"'
bash -c 'trap "echo bye" EXIT; f() { return 7; }; f; echo $?; exit 3'
bash -c 'type cd; umask; echo *; echo {a,b}{1,2}'
bash -c 'trap "echo caught" USR1; kill -USR1 $$; echo after'
bash -c 'kill -TERM $$'
bash -c 'set -e; false; echo no'
bash -c 'echo out > new; cat=$(<words); echo "${#cat}"; mapfile -t l < words; echo ${#l[@]}'
dash -c 'for i in 1 2; do echo $i; done; echo $((7%4))'
python3 -S -c 'print(sum(range(100)),2**100,1/3,"%.17g"%0.1,hash(1.5))'
python3 -S -c 'import sys;print(sys.version_info[:2],sys.argv,sys.byteorder,sys.maxsize);sys.exit(5)'
python3 -S -c 'import math;print([math.sin(i) for i in range(5)],math.gamma(5.5),math.log(7),math.fmod(9,2.5))'
python3 -S -c 'raise ValueError("x")'
python3 -S -c 'import os;print(sorted(os.listdir("tree")),os.stat("words").st_size,os.path.exists("absent"))'
python3 -S -c 'import random;random.seed(7);print([random.random() for i in range(3)])'
readelf -hlW /bin/true
readelf -dW /bin/true
readelf -W --dyn-syms /bin/true
objdump -p /bin/true
objdump -d --no-show-raw-insn --stop-address=0x2200 /bin/true
strings -n 8 /bin/true
size /bin/true
c++filt _ZNSt6vectorIiSaIiEE9push_backERKi
ar t archive.a
node -e 'console.log([1,2,3].map(x=>x*x))'
python3 -c 'import concurrent.futures as f; print(list(f.ThreadPoolExecutor(4).map(lambda x: x ** 2, range(10))))'
python3 -c 'import ctypes as t; c = t.CDLL(None); f = t.CFUNCTYPE(t.c_int, *[t.c_void_p] * 2)(lambda a, b: print("asked") or 0); c.bsearch(b"x", b"a", 1, 1, f)'
python3 -c 'import sqlite3; print(sqlite3.connect(":memory:").execute("select sum(value) from json_each(?)", ("[1,2]",)).fetchall())'
perl -Mthreads -e 'print join(",", map { $_->join } map { my $n = $_; threads->create(sub { $n * $n }) } 1..4), "\n"'
openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:x -kdfopt salt:y -kdfopt iter:1000 PBKDF2
xz -T2 -c binary
zstd -T2 -c -q binary
git hash-object words binary
git diff --no-index --stat words words2
jq -n '[range(5)]|map(.*2)|add'
sqlite3 :memory: 'with recursive c(x) as (select 1 union all select x+1 from c where x<1000) select sum(x), avg(x) from c'
openssl enc -chacha20 -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 000102030405060708090a0b0c0d0e0f -in words -a
perl -MDigest::SHA=sha256_hex -e 'print sha256_hex("abc"),"\n"'
perl -e 'local $SIG{ALRM}=sub{print "alarm\n"; exit 4}; alarm 1; 1 while 1'
python3 -c 'import decimal as d; d.getcontext().prec=60; print(d.Decimal(2).sqrt(), d.Decimal(1)/7)'
python3 -c 'import zlib,bz2,lzma; b=b"hello "*1000; print(len(zlib.compress(b)),len(bz2.compress(b)),len(lzma.compress(b)),zlib.crc32(b))'
python3 -c 'import mmap; f=open("words","rb"); m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_READ); print(m.find(b"three"),m[:3])'
readelf --debug-dump=frames /bin/true
"""
"""A line is split as a shell would; `< FILE` at its end is standard input."""


def _parse(line: str) -> tuple[list[str], str]:
    words = shlex.split(line)
    return (words[:-2], words[-1]) if words[-2:-1] == ["<"] else (words, os.devnull)


def _cases() -> list[str]:
    path = ENVIRONMENT["PATH"]
    return [line for line in COMMANDS.splitlines() if line and shutil.which(_parse(line)[0][0], path=path)]


def fill(folder: Path) -> None:
    """Make the files that the commands read."""
    lines = ["one", "two", "three", "three", "four four", "five", "  six", "Seven", "alpha beta", ""]
    (folder / "words").write_text("\n".join(lines))
    (folder / "words2").write_text("\n".join([*lines[:3], "changed", *lines[5:], "more"]))
    (folder / "numbers").write_text("".join(f"{n * n % 37}\n" for n in range(12)))
    (folder / "table").write_text("a:10:x\nb:9:y\nc:100:z\n")
    (folder / "pairs").write_text("a b\nb c\na d\nd c\n")
    (folder / "patterns").write_text("one\nbeta\n")
    (folder / "text").write_text(
        "A paragraph\tthat is long enough\nto be filled again.\n\n\tAnother one,        here.\n" * 3
    )
    (folder / "binary").write_bytes(bytes(n * 7 % 256 for n in range(200)))
    (folder / "empty").write_bytes(b"")
    for tree in ("tree", "tree2"):
        (folder / tree / "d").mkdir(parents=True)
        (folder / tree / "a").write_text("one in a\n")
        (folder / tree / "b").write_text("two in b\n" * (2 if tree == "tree" else 3))
        (folder / tree / "d" / "c").write_text("")
        (folder / tree / "link").symlink_to("a")
    for place in sorted(folder.rglob("*"), reverse=True):
        os.utime(place, (1_000_000_000, 1_000_000_000), follow_symlinks=False)
    for command in (
        "tar --sort=name -cf archive.tar tree",
        "gzip -kn words",
        "ar rcD archive.a words numbers",
    ):
        if shutil.which(command.split()[0]):
            subprocess.run(command.split(), cwd=folder, check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("system")
    fill(folder)
    return folder


def run(command: list[str], stdin: str, folder: Path, env: dict[str, str]) -> tuple[int, bytes, bytes]:
    """Return exit code (128+N for signal N), standard output and error."""
    with (folder / stdin).open("rb") as stream:
        done = subprocess.run(command, stdin=stream, cwd=folder, env=env, capture_output=True, timeout=60)
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return code, done.stdout, done.stderr


@pytest.mark.parametrize("line", _cases(), ids=lambda line: line[:60])
def test_prints_what_it_prints_natively(line: str, folder: Path, tmp_path: Path) -> None:
    command, stdin = _parse(line)
    env = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    emulated = run(
        [sys.executable, "-m", "emu", "run", "--clean-env", *env, *command], stdin, folder, dict(os.environ)
    )
    own = tmp_path / "folder"  # what a native run writes is not for the others
    shutil.copytree(folder, own, symlinks=True)
    code, said, errors = run(command, stdin, own, ENVIRONMENT)
    assert (emulated[0], emulated[1]) == (code, said), emulated[2]
    if code < 128:
        assert emulated[2] == errors
