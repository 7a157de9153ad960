"""What the loader tells of its state to whoever keeps the guest's copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from emu.rtld.link_map import LinkMap
    from emu.rtld.scope import Namespace


class MirrorView(Protocol):
    """Each method is told the part of its argument that has changed."""

    @property
    def vdso_getrandom(self) -> bool:
        """Whether libc takes random bytes from the vDSO where there is a function for it."""

    def size_of_map(self) -> int:
        """The size of a link map with what auditors keep behind it, and the record of its first name."""

    def new_map(self, map_: LinkMap, address: int = 0) -> None:
        """Make what shows a new object, at `address` or where there is room."""

    def free_map(self, map_: LinkMap) -> None:
        """Give back what shows an object that is unloaded."""

    def appended(self, map_: LinkMap) -> None:
        """Show a map at the end of its namespace's list."""

    def unlinked(self, namespace: Namespace, index: int) -> None:
        """Show the list without the map that was at `index`."""

    def chain(self, namespace: Namespace) -> None:
        """Show the order of the list."""

    def namespace(self, namespace: Namespace) -> None:
        """Head, length and libc of a namespace."""

    def namespaces(self) -> None:
        """The number of namespaces."""

    def flags(self, map_: LinkMap) -> None:
        """Single-bit flags."""

    def opencount(self, map_: LinkMap) -> None:
        """The count of direct opens."""

    def nodelete(self, map_: LinkMap) -> None:
        """NODELETE, active or pending."""

    def versions(self, map_: LinkMap) -> None:
        """Its versions, now checked."""

    def names(self, map_: LinkMap) -> None:
        """The names that it is known by."""

    def loader(self, map_: LinkMap) -> None:
        """Show for which object it was loaded."""

    def tls_offset(self, map_: LinkMap) -> None:
        """Its TLS module id and static offset."""

    def initfini(self, map_: LinkMap) -> None:
        """Its dependencies in init order."""

    def reldeps(self, map_: LinkMap) -> None:
        """Its relocation dependencies."""

    def searchlist(self, map_: LinkMap) -> None:
        """Its search list."""

    def dependencies(self, root: LinkMap) -> None:
        """Search list and init order, both."""

    def scopes(self, map_: LinkMap) -> None:
        """The list of its scopes."""

    def tls(self) -> None:
        """The TLS modules."""

    def debug_state(self, namespace: Namespace) -> None:
        """The state shown to debuggers."""

    def debug_chain(self) -> None:
        """A namespace has come to the list shown to debuggers."""

    def audit_cookie(self, map_: LinkMap, index: int) -> int:
        """Return the guest address of the cookie that an object has for auditor number `index`."""

    def audit(self, map_: LinkMap) -> None:
        """What auditors want to hear of its bindings; whether it is an auditor."""

    def auditors(self) -> None:
        """The list of auditors."""

    def dtor_count(self, map_: LinkMap) -> int:
        """Return the number of pending thread_local destructors, which the guest's copy alone knows."""
