"""Several messages of a socket by one call. Source: sendmmsg(2), recvmmsg(2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.kernel import abi
from emu.kernel.syscalls.messages import message_at, receive_message, send_from
from emu.kernel.syscalls.sockets import SO_RCVTIMEO, SO_SNDTIMEO, deadline_of, socket_call

if TYPE_CHECKING:
    from emu.kernel.kernel import Kernel
    from emu.kernel.net.socket import Socket
    from emu.kernel.run.block import Waiting
    from emu.kernel.run.task import Task

_MSG_DONTWAIT, _MSG_WAITFORONE = 0x40, 0x10000
_MSGHDR_SIZE, _MMSGHDR_SIZE = 56, 64


def _each(
    k: Kernel, t: Task, socket: Socket, vector: int, count: int, flags: int, *, sending: bool
) -> Waiting:
    done = 0
    while done < min(count, abi.IOV_MAX):
        place = vector + _MMSGHDR_SIZE * done
        try:
            if sending:
                deadline = deadline_of(k, socket, SO_SNDTIMEO)
                length = yield from send_from(k, t, socket, message_at(k, socket, place), flags, deadline)
            else:
                deadline = deadline_of(k, socket, SO_RCVTIMEO)
                length = yield from receive_message(k, t, socket, place, flags & ~_MSG_WAITFORONE, deadline)
        except OSError:
            if done:
                break
            raise
        k.arena.copy_out(place + _MSGHDR_SIZE, length.to_bytes(4, "little"))
        done += 1
        if flags & _MSG_WAITFORONE:
            flags |= _MSG_DONTWAIT
    return done


@socket_call(307, "sendmmsg", "fd", "ptr", "uint", "hex")
def _sys_sendmmsg(k: Kernel, t: Task, socket: Socket, vector: int, count: int, flags: int) -> int | Waiting:
    return _each(k, t, socket, vector, count, flags & abi.U32, sending=True)


@socket_call(299, "recvmmsg", "fd", "ptr", "uint", "hex", "ptr")
def _sys_recvmmsg(
    k: Kernel, t: Task, socket: Socket, vector: int, count: int, flags: int, timeout: int
) -> int | Waiting:
    if timeout:
        return k.refuse("recvmmsg (299) with a timeout")
    return _each(k, t, socket, vector, count, flags & abi.U32, sending=False)
