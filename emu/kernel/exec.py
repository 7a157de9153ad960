"""execve for the first program: find the file, map it and its interpreter, build the stack.

Source: execve(2); Linux fs/exec.c, fs/binfmt_elf.c:load_elf_binary, fs/binfmt_script.c; psABI 3.4.
"""

from __future__ import annotations

import errno
import mmap as mmap_module
import os
import re
import struct
from typing import TYPE_CHECKING

from emu.core.errors import EXIT_LOADER, EXIT_NOT_EXECUTABLE, ElfError, ExecError, MemoryFault
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf import machines
from emu.elf.dynamic import Dynamic
from emu.elf.header import Ehdr, NotExecutableError, Phdr, check_executable
from emu.kernel import abi
from emu.kernel.fs.place import MagicLink
from emu.kernel.kernel import Program
from emu.kernel.stack import STACK_SIZE, STACK_TOP, AuxFacts, build_stack

if TYPE_CHECKING:
    from emu.core.files import Backing
    from emu.kernel.fs.inodes import RegularFile
    from emu.kernel.kernel import Kernel

PIE_BASE = 0x5555_5555_4000
_INTERPRETER = b"/lib64/ld-linux-x86-64.so.2"
_SCRIPT_DEPTH = 4
_SCRIPT_LINE = 256
_AFTER_A_NAME = rb"[ \t]*[^ \t\0]*[ \t\0]"
_NAME_AND_ARGUMENT = rb"(?s)[ \t]*([^ \t\0]+)(?:[ \t]+(.*)|\0.*|)"
_ARGUMENT_LIMIT = STACK_SIZE // 4
_M64 = (1 << 64) - 1


class MissingInterpreterError(ExecError):
    """The program is there, but not the dynamic linker that it names."""


class ExecImage(NamedTuple):
    """An ELF file in guest memory. `bias` is what was added to the addresses as linked; `end` is the end of
    its last segment.

    `phdr` is the guest address of its program headers (0 if no segment holds them).
    """

    path: str
    bias: int
    start: int
    end: int
    entry: int
    phdr: int
    ehdr: Ehdr
    phdrs: tuple[Phdr, ...]
    file: Backing


class Loaded(NamedTuple):
    """A program ready to start: where to go on (`start`: the interpreter's entry if there is one), and
    everything on the way. `secure` is AT_SECURE: the program has set-id bits.

    `argv` differs from what was asked when the program is a script. `auxv` are the (type, value) pairs on the
    stack.
    """

    start: int
    stack_pointer: int
    program: ExecImage
    interpreter: ExecImage | None
    vdso: int
    argv: tuple[bytes, ...]
    envp: tuple[bytes, ...]
    auxv: tuple[tuple[int, int], ...]
    brk: int
    executable_stack: bool
    secure: bool


def load_program(
    kernel: Kernel,
    path: str,
    argv: list[bytes],
    envp: list[bytes],
    vdso: bytes = b"",
    image: bytes | None = None,
    *,
    listed: bool = False,
) -> Loaded:
    """Map the program at the guest path `path` and make its stack; `vdso` is an ELF image to be shown as
    [vdso]. With `image` the program is these bytes, in a file that has no name. One that is only `listed`
    need not be executable, and may be a DSO: it gets the interpreter that it does not name, as ldd has it.

    Raises ExecError with the shell's exit code: 127 for a missing file, 126 for one that cannot be
    executed.
    """
    name = path
    if image is None:
        file, argv, path = _resolve_scripts(kernel, path, list(argv), listed)
    else:
        file = kernel.fs.in_memory(path, image)
    if sum(map(len, argv)) + sum(map(len, envp)) + 9 * (len(argv) + len(envp)) > _ARGUMENT_LIMIT:
        raise ExecError(f"{path}: Argument list too long", errno.E2BIG)
    ehdr, phdrs, interp_path = _judge(file, path)
    if listed and interp_path is None and _is_dso(file, path, phdrs):
        interp_path = _INTERPRETER
    bias = _program_bias(ehdr, phdrs)
    program = _map_or_die(kernel, file, path, ehdr, phdrs, bias)
    kernel.brk_start = kernel.brk = _page_up(program.end)
    executable_stack = next((bool(p.flags & c.PF_X) for p in phdrs if p.type == c.PT_GNU_STACK), True)
    prot = abi.PROT_READ | abi.PROT_WRITE | (abi.PROT_EXEC if executable_stack else 0)
    kernel.space.mmap(
        STACK_TOP - STACK_SIZE, STACK_SIZE, prot, fixed=True, noreplace=True, name="[stack]", grows_down=True
    )
    interpreter = None
    if interp_path is not None:
        interpreter = _map_interpreter(kernel, os.fsdecode(interp_path), path)
    vdso_base = _map_vdso(kernel, vdso) if vdso else 0
    facts = AuxFacts(
        program.phdr,
        ehdr.phentsize,
        ehdr.phnum,
        interpreter.bias if interpreter else 0,
        program.entry,
        vdso_base,
        kernel.entropy.take(16),
        kernel.config.features,
        kernel.config.uid,
        kernel.config.gid,
        secure := image is None and not listed and _is_secure(kernel, file),
    )
    stack = build_stack(kernel.arena, facts, os.fsencode(name), argv, envp)
    auxv = b"".join(struct.pack("<QQ", *pair) for pair in stack.auxv)
    exe = _real_path(kernel, path) if image is None else path
    kernel.program = Program(exe, file.inode, tuple(argv), tuple(envp), auxv, stack.pointer)
    return Loaded(
        interpreter.entry if interpreter else program.entry, stack.pointer, program, interpreter, vdso_base,
        tuple(argv), tuple(envp), stack.auxv, kernel.brk, executable_stack, secure,
    )  # fmt: skip


def _open_executable(kernel: Kernel, path: str, listed: bool = False) -> RegularFile:
    try:
        inode = kernel.fs.find(path)
        if inode.fmt == abi.S_IFDIR:
            raise ExecError(f"{path}: Is a directory", errno.EACCES)
        if inode.fmt != abi.S_IFREG:
            raise ExecError(f"{path}: Permission denied (not a regular file)", errno.EACCES)
        if not listed and not inode.stat().mode & 0o111:
            hint = f"not executable; if it is a program: chmod +x {path}"
            raise ExecError(f"{path}: Permission denied ({hint})", errno.EACCES)
        kernel.fs.allow(inode, abi.R_OK if listed else abi.X_OK)
        return kernel.fs.open_for_loading(path)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        code = EXIT_LOADER if missing else EXIT_NOT_EXECUTABLE
        raise ExecError(f"{path}: {error.strerror}", error.errno or errno.EIO, code) from None


def _is_secure(kernel: Kernel, file: RegularFile) -> bool:
    """Whether a program has set-id bits that would give it other rights than its user's,
    which it does not get here.

    Source: execve(2); getauxval(3), AT_SECURE; Linux fs/exec.c:bprm_fill_uid (a set-group-ID bit counts with
    that of execution only).
    """
    stat, of_group = file.file.stat(), abi.S_ISGID | 0o010
    other_user = bool(stat.mode & abi.S_ISUID) and stat.uid != kernel.config.uid
    return other_user or (stat.mode & of_group == of_group and stat.gid != kernel.config.gid)


def _real_path(kernel: Kernel, path: str) -> str:
    """Return the path of a program's file; of one given by a descriptor, that which it was opened under."""
    link = kernel.fs.find(path, follow=False)
    return link.target() if isinstance(link, MagicLink) else kernel.fs.realpath(path)


def _script_line(head: bytes) -> tuple[bytes, list[bytes]]:
    """Return the interpreter that a `#!` line names, empty for none, and its argument if there is one.

    A line that is longer than the kernel reads is cut; where that may have cut the name, there is none.
    Source: Linux fs/binfmt_script.c:load_script.
    """
    line, newline, _ = head[2:].partition(b"\n")
    if not newline:
        whole = head[2:].ljust(_SCRIPT_LINE - 2, b"\0")
        if not re.match(_AFTER_A_NAME, whole):
            return b"", []
        line = whole[:-1]
    found = re.match(_NAME_AND_ARGUMENT, line.rstrip(b" \t"))
    if found is None:
        return b"", []
    argument = (found[2] or b"").partition(b"\0")[0]
    return found[1], [argument] if argument else []


def _resolve_scripts(
    kernel: Kernel, path: str, argv: list[bytes], listed: bool
) -> tuple[RegularFile, list[bytes], str]:
    """Follow `#!` lines to an ELF file; return it, the arguments that it gets, and its path."""
    first = path
    for _ in range(_SCRIPT_DEPTH + 1):
        file = _open_executable(kernel, path, listed)
        head = file.pread(_SCRIPT_LINE, 0)
        if head[:2] != b"#!":
            return file, argv, path
        interpreter, extra = _script_line(head)
        if not interpreter:
            raise ExecError(f"{path}: Exec format error (its #! line names no interpreter)", errno.ENOEXEC)
        argv = [interpreter, *extra, os.fsencode(path), *argv[1:]]
        script, path = path, os.fsdecode(interpreter)
        if not _exists(kernel, path):
            raise ExecError(f"{script}: {path}: bad interpreter: No such file or directory", errno.ENOENT)
    raise ExecError(f"{first}: Too many levels of #! interpreters", errno.ELOOP)


def _exists(kernel: Kernel, path: str) -> bool:
    try:
        kernel.fs.find(path)
    except OSError:
        return False
    return True


def _is_dso(file: RegularFile, path: str, phdrs: list[Phdr]) -> bool:
    """Whether this is a shared object, and no static program, PIE or not."""
    for phdr in phdrs:
        if phdr.type == c.PT_DYNAMIC:
            return not Dynamic(file.pread(min(phdr.filesz, file.size()), phdr.offset), path).is_pie
    return False


def _judge(file: RegularFile, path: str) -> tuple[Ehdr, list[Phdr], bytes | None]:
    """Read the headers as execve does, and name what is wrong in the user's words."""
    data = _map_for_reading(file)
    try:
        return check_executable(data, path)
    except NotExecutableError as error:
        raise ExecError(f"{path}: {_explain(bytes(data[:20]), error)}", errno.ENOEXEC) from None
    except ElfError as error:
        raise ExecError(str(error), errno.ENOEXEC) from None


def _map_for_reading(file: RegularFile) -> bytes | mmap_module.mmap:
    host, size = file.host_fd(), file.size()
    if host is None or size == 0:
        return file.pread(size, 0)
    return mmap_module.mmap(host, 0, prot=mmap_module.PROT_READ)


def _explain(head: bytes, error: NotExecutableError) -> str:
    machine = machines.foreign(head)
    if machine:
        return f"Exec format error (a program for {machine}; only 64-bit x86-64 programs run)"
    if not head:
        return "Exec format error (the file is empty)"
    if not head.startswith((c.ELFMAG, b"!<arch>")):
        return "Exec format error (neither an ELF file nor a script, which begins with #!)"
    return error.reason


def _program_bias(ehdr: Ehdr, phdrs: list[Phdr]) -> int:
    if ehdr.type != c.ET_DYN:
        return 0
    loads = [p for p in phdrs if p.type == c.PT_LOAD]
    align = max((p.align for p in loads if p.align and not p.align & (p.align - 1)), default=abi.PAGE_SIZE)
    base = PIE_BASE & -max(align, abi.PAGE_SIZE)
    return (base - loads[0].vaddr) & -abi.PAGE_SIZE


def _map_or_die(
    kernel: Kernel, file: RegularFile, path: str, ehdr: Ehdr, phdrs: list[Phdr], bias: int
) -> ExecImage:
    try:
        return map_image(kernel, file, path, ehdr, phdrs, bias)
    except OSError as error:
        raise ExecError(f"{path}: cannot be mapped: {error.strerror}", error.errno or errno.ENOMEM) from None


def _map_interpreter(kernel: Kernel, path: str, program: str) -> ExecImage:
    """Map ld.so as one block at the top of the mapping area."""
    try:
        file = _open_executable(kernel, path)
    except ExecError as error:
        if error.exit_code != EXIT_LOADER:
            raise
        raise MissingInterpreterError(
            f"{program}: cannot execute: required file not found: its interpreter {path} is missing",
            errno.ENOENT,
            EXIT_LOADER,
        ) from None
    ehdr, phdrs, _ = _judge(file, path)
    loads = [p for p in phdrs if p.type == c.PT_LOAD]
    low = loads[0].vaddr & -abi.PAGE_SIZE
    bias = 0
    if ehdr.type == c.ET_DYN:
        bias = kernel.space.find_gap(_page_up(loads[-1].vaddr + loads[-1].memsz) - low) - low
    return _map_or_die(kernel, file, path, ehdr, phdrs, bias)


def map_image(
    kernel: Kernel, file: RegularFile, path: str, ehdr: Ehdr, phdrs: list[Phdr], bias: int
) -> ExecImage:
    """Map every PT_LOAD of a checked file at `bias`: file pages private, the rest of the last page and the
    bss zero.

    Raises OSError when there is no room.
    """
    loads = [p for p in phdrs if p.type == c.PT_LOAD]
    phdr_address = 0
    for number, load in enumerate(loads):
        _map_segment(kernel, file, path, load, bias, replace=number > 0)
        if load.offset <= ehdr.phoff < load.offset + load.filesz:
            phdr_address = ehdr.phoff - load.offset + load.vaddr + bias
    start = (min(load.vaddr for load in loads) & -abi.PAGE_SIZE) + bias
    end = max(load.vaddr + load.memsz for load in loads) + bias
    return ExecImage(path, bias, start, end, ehdr.entry + bias & _M64, phdr_address, ehdr, tuple(phdrs), file)


def _map_segment(
    kernel: Kernel, file: RegularFile, path: str, load: Phdr, bias: int, *, replace: bool
) -> None:
    """Map one segment; all but the first go over what is there."""
    space = kernel.space
    prot = (
        (abi.PROT_READ if load.flags & c.PF_R else 0)
        | (abi.PROT_WRITE if load.flags & c.PF_W else 0)
        | (abi.PROT_EXEC if load.flags & c.PF_X else 0)
    )
    start = load.vaddr + bias
    page = start & -abi.PAGE_SIZE
    file_end, memory_end = start + load.filesz, start + load.memsz
    mapped_end = page
    if load.filesz:
        mapped_end = _page_up(file_end)
        space.mmap(
            page, mapped_end - page, prot, fixed=True, noreplace=not replace, backing=file,
            offset=load.offset - (start - page), name=path,
        )  # fmt: skip
    if memory_end > file_end and load.filesz and load.flags & c.PF_W:
        try:
            kernel.arena.write(file_end, bytes(mapped_end - file_end))
        except MemoryFault:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT)) from None
    if _page_up(memory_end) > mapped_end:
        space.mmap(mapped_end, _page_up(memory_end) - mapped_end, prot, fixed=True, noreplace=not replace)


def _map_vdso(kernel: Kernel, image: bytes) -> int:
    """Put the vDSO just below what was mapped last."""
    base = kernel.space.mmap(0, len(image), abi.PROT_READ | abi.PROT_EXEC, name="[vdso]")
    kernel.arena.write(base, image)
    return base


def _page_up(value: int) -> int:
    return (value + abi.PAGE_SIZE - 1) & -abi.PAGE_SIZE
