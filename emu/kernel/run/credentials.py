"""Who the process is: user and group ids, supplementary groups, capabilities, and what may become of them.

Linux keeps these for each thread, and libc changes all threads at once; here they are the process's.

Source: credentials(7), setuid(2), setreuid(2), setresuid(2), setfsuid(2), capabilities(7), "Effect of user ID
changes on capabilities".
"""

from __future__ import annotations

import errno
from typing import Final

from emu.kernel.errors import fail

ALL_CAPABILITIES: Final = (1 << 41) - 1
CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 1 << 5, 1 << 6, 1 << 7, 1 << 8
CAP_SYS_CHROOT = 1 << 18
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_NICE, CAP_SYS_RESOURCE = 1 << 19, 1 << 21, 1 << 23, 1 << 24
UNCHANGED: Final = 0xFFFF_FFFF
"""What leaves an id as it is: -1 as an unsigned number, as all ids are."""


class Ids:
    """The four ids that a process has as a user, or as a group, in /proc/self/status's order."""

    __slots__ = ("real", "effective", "saved", "fs")

    def __init__(self, each: int) -> None:
        self.real = self.effective = self.saved = self.fs = each

    def copy(self) -> Ids:
        """Return the same ids."""
        twin = Ids(0)
        twin.real, twin.effective, twin.saved, twin.fs = self.all()
        return twin

    def all(self) -> tuple[int, int, int, int]:
        """Return real, effective, saved and file-system id."""
        return self.real, self.effective, self.saved, self.fs

    def set(self, wanted: int, privileged: bool) -> None:
        """Become `wanted`: altogether with privilege, else in effect only (setuid).

        Raises OSError(EINVAL, EPERM).
        """
        if wanted == UNCHANGED:
            raise fail(errno.EINVAL)
        if privileged:
            self.real = self.saved = wanted
        elif wanted not in (self.real, self.saved):
            raise fail(errno.EPERM)
        self.effective = self.fs = wanted

    def set_two(self, real: int, effective: int, privileged: bool) -> None:
        """Set real and effective ids, each unless -1 (setreuid). Raises OSError(EPERM)."""
        if not privileged:
            if real not in (UNCHANGED, self.real, self.effective):
                raise fail(errno.EPERM)
            if effective not in (UNCHANGED, self.real, self.effective, self.saved):
                raise fail(errno.EPERM)
        before = self.real
        if effective != UNCHANGED:
            self.effective = effective
        if real != UNCHANGED:
            self.real = real
        if real != UNCHANGED or effective not in (UNCHANGED, before):
            self.saved = self.effective
        self.fs = self.effective

    def set_three(self, real: int, effective: int, saved: int, privileged: bool) -> None:
        """Set three ids, each unless -1 (setresuid). Raises OSError(EPERM)."""
        known = (UNCHANGED, self.real, self.effective, self.saved)
        if not privileged and any(wanted not in known for wanted in (real, effective, saved)):
            raise fail(errno.EPERM)
        self.real = self.real if real == UNCHANGED else real
        self.effective = self.effective if effective == UNCHANGED else effective
        self.saved = self.saved if saved == UNCHANGED else saved
        self.fs = self.effective

    def set_fs(self, wanted: int, privileged: bool) -> int:
        """Set the id that file accesses are checked with;
        return the one before, whether or not it was set (setfsuid).
        """
        before = self.fs
        if privileged or wanted in (self.real, self.effective, self.saved, self.fs):
            self.fs = before if wanted == UNCHANGED else wanted
        return before


class Credentials:
    """Users, groups and capabilities of the process. `keep` is PR_SET_KEEPCAPS."""

    __slots__ = ("bounding", "effective", "groups", "inheritable", "keep", "permitted", "users")

    def __init__(self, uid: int, gid: int) -> None:
        self.users, self.groups = Ids(uid), Ids(gid)
        self.permitted = self.effective = 0 if uid else ALL_CAPABILITIES
        self.inheritable = 0
        self.bounding = ALL_CAPABILITIES
        self.keep = False

    def copy(self) -> Credentials:
        """Return what a child begins with."""
        twin = Credentials(0, 0)
        for name in self.__slots__:
            value = getattr(self, name)
            setattr(twin, name, value.copy() if isinstance(value, Ids) else value)
        return twin

    def has(self, capability: int) -> bool:
        """Whether a capability is in effect."""
        return bool(self.effective & capability)

    def sets(self) -> tuple[tuple[str, int], ...]:
        """Return the sets of capabilities by the names that /proc/self/status gives them."""
        return (
            ("Inh", self.inheritable),
            ("Prm", self.permitted),
            ("Eff", self.effective),
            ("Bnd", self.bounding),
            ("Amb", 0),
        )

    def users_changed(self, before: tuple[int, int, int, int]) -> None:
        """Let capabilities go, or come back, with a change of user ids; `before` is what `Ids.all` was."""
        users = self.users
        if 0 in before[:3] and 0 not in users.all()[:3]:
            self.effective = 0
            if not self.keep:
                self.permitted = 0
        if before[1] == 0 != users.effective:
            self.effective = 0
        elif before[1] != 0 == users.effective:
            self.effective = self.permitted
