"""A thin binding to /dev/kvm: one virtual machine with one virtual CPU.

Source: Linux Documentation/virt/kvm/api.rst, include/uapi/linux/kvm.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import weakref

from emu.core.errors import EmuError
from emu.core.record import NamedTuple

DEVICE = "/dev/kvm"
_API_VERSION = 12
_GET_API_VERSION, _CREATE_VM, _CHECK_EXTENSION, _VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
_SUPPORTED_CPUID, _CREATE_VCPU, _SET_MEMORY, RUN = 0xC008AE05, 0xAE41, 0x4020AE46, 0xAE80
_GET_SREGS, _SET_SREGS, _SET_MSRS, _SET_CPUID2 = 0x8138AE83, 0x4138AE84, 0x4008AE89, 0x4008AE90
_GET_XSAVE, _SET_XSAVE, _SET_XCRS = 0x9000AEA4, 0x5000AEA5, 0x4188AEA7
_CAPABILITIES = {
    3: "USER_MEMORY",
    7: "EXT_CPUID",
    55: "XSAVE",
    56: "XCRS",
    74: "SYNC_REGS",
    136: "IMMEDIATE_EXIT",
}
_CAP_SYNC_REGS = 74
_SYNC_REGS, _SYNC_SREGS = 1, 2
_MOST_LEAVES = 256
XSAVE_SIZE = 4096
SREGS_SIZE = 312
_REGS_AT = 304
REGS, VALID, DIRTY = _REGS_AT // 8, 288 // 8, 296 // 8
"""Words of the run page: where the copy of the registers begins, and what of it is given and taken."""
SREGS_AT = _REGS_AT + 144
CR2, FS_BASE, GS_BASE = (SREGS_AT + 232) // 8, (SREGS_AT + 72) // 8, (SREGS_AT + 96) // 8
EXIT_REASON = 2
"""32-bit word of the run page."""
EXIT_HLT = 5
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


class Leaf(NamedTuple):
    """One answer of CPUID: for `function` and `subleaf`, the four registers."""

    function: int
    subleaf: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def host_address(buffer: mmap.mmap | bytearray) -> int:
    """Return where a writable buffer lies in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def why_not() -> str:
    """Return what keeps KVM from being used here, with the next step; "" if nothing is seen that does."""
    if os.uname().machine != "x86_64" or not hasattr(os, "posix_spawn"):
        return "KVM needs Linux on x86-64"
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return f"{DEVICE} is not there: load kvm_intel or kvm_amd, or give the container the device (--device {DEVICE})"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{DEVICE} may not be opened: join its group (usermod -aG kvm $USER, then log in again)"
        return f"{DEVICE} cannot be opened: {error.strerror}"
    try:
        return _lacks(device)
    except OSError as error:
        return f"{DEVICE} does not answer: {error.strerror}"
    finally:
        os.close(device)


def _lacks(device: int) -> str:
    """Return what the KVM behind an open device lacks."""
    version = fcntl.ioctl(device, _GET_API_VERSION, 0)
    if version != _API_VERSION:
        return (
            f"this kernel's KVM has API {version}, and emu works with {_API_VERSION}: a newer kernel would do"
        )
    found = {number: fcntl.ioctl(device, _CHECK_EXTENSION, number) for number in _CAPABILITIES}
    wanted = _SYNC_REGS | _SYNC_SREGS
    missing = [name for number, name in _CAPABILITIES.items() if not found[number]]
    if found[_CAP_SYNC_REGS] & wanted != wanted and "SYNC_REGS" not in missing:
        missing.append("SYNC_REGS")
    if missing:
        return f"this kernel's KVM lacks {', '.join(f'KVM_CAP_{name}' for name in missing)}: a newer kernel would do"
    return ""


class Vm:
    """The machine.

    `q` are the 64-bit words of the run page, `d` its 32-bit words, `run` its bytes,
    `vcpu` the descriptor of the CPU.

    Raises EmuError where there is no KVM to be used. Everything is given back by `close`, or when this object
    goes.
    """

    def __init__(self) -> None:
        missing = why_not()
        if missing:
            raise EmuError(f"--engine kvm: {missing}; --engine unicorn needs nothing")
        fds: list[int] = []
        self._give_back = weakref.finalize(self, _close_all, fds)
        try:
            self._device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            fds.append(self._device)
            self._vm = fcntl.ioctl(self._device, _CREATE_VM, 0)
            fds.append(self._vm)
            self.vcpu = fcntl.ioctl(self._vm, _CREATE_VCPU, 0)
            fds.append(self.vcpu)
            self.run = mmap.mmap(self.vcpu, fcntl.ioctl(self._device, _VCPU_MMAP_SIZE, 0))
        except OSError as error:
            self._give_back()
            raise EmuError(f"--engine kvm: no virtual machine can be made: {error.strerror}") from None
        self.q = memoryview(self.run).cast("Q")
        self.d = memoryview(self.run).cast("I")
        self.q[VALID] = _SYNC_REGS | _SYNC_SREGS
        self._slots = 0
        self._xsave = bytearray(XSAVE_SIZE)
        self._xsave_at = host_address(self._xsave)
        self._msr = bytearray(24)
        self._msr_at = host_address(self._msr)

    def close(self) -> None:
        """Give everything back; nothing can be run any more."""
        self.q.release()
        self.d.release()
        self.run.close()
        self._give_back()

    def _call(self, descriptor: int, request: int, address: int, what: str) -> None:
        if _libc.ioctl(descriptor, request, address) < 0:
            raise failure(ctypes.get_errno(), what)

    def put_memory(self, slot: int, guest: int, size: int, host: int) -> None:
        """Make host memory the guest's physical memory at `guest`; a size of 0 takes the slot away."""
        try:
            fcntl.ioctl(self._vm, _SET_MEMORY, struct.pack("IIQQQ", slot, 0, guest, size, host))
        except OSError as error:
            raise failure(error.errno or 0, "KVM_SET_USER_MEMORY_REGION") from None

    def supported_cpuid(self) -> list[Leaf]:
        """Return what this KVM can show of the host's CPU."""
        raw = bytearray(8 + 40 * _MOST_LEAVES)
        struct.pack_into("<I", raw, 0, _MOST_LEAVES)
        self._call(self._device, _SUPPORTED_CPUID, host_address(raw), "KVM_GET_SUPPORTED_CPUID")
        (count,) = struct.unpack_from("<I", raw)
        self._flags = [struct.unpack_from("<I", raw, 16 + 40 * at)[0] for at in range(count)]
        words = [struct.unpack_from("<7I", raw, 8 + 40 * at) for at in range(count)]
        return [Leaf(function, index, *registers) for function, index, _, *registers in words]

    def show_cpuid(self, leaves: list[Leaf]) -> None:
        """Let CPUID answer with `leaves`, those of `supported_cpuid` in their order."""
        raw = bytearray(8 + 40 * len(leaves))
        struct.pack_into("<I", raw, 0, len(leaves))
        for at, (leaf, flags) in enumerate(zip(leaves, self._flags, strict=True)):
            struct.pack_into("<7I", raw, 8 + 40 * at, leaf.function, leaf.subleaf, flags, *leaf[2:])
        self._call(self.vcpu, _SET_CPUID2, host_address(raw), "KVM_SET_CPUID2")

    def special_registers(self) -> bytearray:
        """Return `struct kvm_sregs`."""
        state = bytearray(SREGS_SIZE)
        self._call(self.vcpu, _GET_SREGS, host_address(state), "KVM_GET_SREGS")
        return state

    def load_special_registers(self, state: bytearray) -> None:
        """Load `struct kvm_sregs`."""
        self._call(self.vcpu, _SET_SREGS, host_address(state), "KVM_SET_SREGS")

    def set_xcr0(self, value: int) -> None:
        """Choose which states XSAVE knows."""
        control = bytearray(392)
        struct.pack_into("<IIIIQ", control, 0, 1, 0, 0, 0, value)
        self._call(self.vcpu, _SET_XCRS, host_address(control), "KVM_SET_XCRS")

    def set_msr(self, number: int, value: int) -> None:
        """Store a model-specific register."""
        struct.pack_into("<IIIIQ", self._msr, 0, 1, 0, number, 0, value)
        self._call(self.vcpu, _SET_MSRS, self._msr_at, "KVM_SET_MSRS")

    def xsave(self) -> bytes:
        """Return the x87 and vector state as an XSAVE image of the standard format."""
        self._call(self.vcpu, _GET_XSAVE, self._xsave_at, "KVM_GET_XSAVE")
        return bytes(self._xsave)

    def xrstor(self, image: bytes) -> None:
        """Load the x87 and vector state."""
        self._xsave[:] = image
        self._call(self.vcpu, _SET_XSAVE, self._xsave_at, "KVM_SET_XSAVE")


def failure(number: int, what: str) -> EmuError:
    """Return the error for a call of KVM that should not fail."""
    if number == errno.EIO:
        return EmuError(
            "--engine kvm: the virtual machine belongs to the process that made it, not to a child that os.fork has made of it"
        )
    return EmuError(f"--engine kvm: {what}: {os.strerror(number)}; --engine unicorn needs no KVM")


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
