"""Relocation: S, A, P, G and the rest of psABI table 4.10, applied to one object.

RELR and RELATIVE entries, most of all, need no symbol and are done in bulk. PLT slots stay lazy where they
may. An IFUNC is resolved when its relocation is met, in table order but IRELATIVE last (since 2.44 all of the
object's own, `own_ifuncs`), by a call of the guest's resolver: hence this is a generator.

Source: psABI 4.4; glibc elf/dl-reloc.c:_dl_relocate_object, elf/dynamic-link.h, elf/do-rel.h,
sysdeps/x86_64/dl-machine.h:elf_machine_rela.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.errors import ElfError, Inconsistency, LoaderError
from emu.core.events import Relocated, RelocationStarted
from emu.elf import constants as c
from emu.elf.relocations import all_relative, iter_rela, reloc_name
from emu.rtld import own_ifuncs
from emu.rtld.audit_binding import audit_slots, symbind, wishes
from emu.rtld.failure import NoStaticTls
from emu.rtld.found import Found, symbol_of
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, LT_EXECUTABLE, NO_TLS_OFFSET, LinkMap
from emu.rtld.references import References
from emu.rtld.relocated_view import RelocatedView
from emu.rtld.relro import protect_relro

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld

_PUT64 = struct.Struct("<Q").pack_into
_PUT32 = struct.Struct("<I").pack_into
_GET64 = struct.Struct("<Q").unpack_from
_M64 = (1 << 64) - 1
_PAGE = 4096
_NO_SYMBOL = frozenset((c.R_X86_64_NONE, c.R_X86_64_RELATIVE, c.R_X86_64_RELATIVE64, c.R_X86_64_IRELATIVE))
_LAZY = frozenset((c.R_X86_64_JUMP_SLOT, c.R_X86_64_IRELATIVE, c.R_X86_64_TLSDESC))
"""What the PLT of an object that is bound lazily may have."""
_KNOWN = frozenset(
    (
        c.R_X86_64_64, c.R_X86_64_GLOB_DAT, c.R_X86_64_JUMP_SLOT, c.R_X86_64_RELATIVE, c.R_X86_64_RELATIVE64, c.R_X86_64_IRELATIVE,
        c.R_X86_64_DTPMOD64, c.R_X86_64_DTPOFF64, c.R_X86_64_TPOFF64, c.R_X86_64_TLSDESC, c.R_X86_64_SIZE64, c.R_X86_64_SIZE32, c.R_X86_64_32,
        c.R_X86_64_PC32, c.R_X86_64_COPY,
    )
)  # fmt: skip
"""The relocation types that ld.so knows; in the PLT of an object that is bound
lazily only the three in _LAZY.
"""
_BY_ADDRESS = frozenset(
    (c.R_X86_64_64, c.R_X86_64_PC32, c.R_X86_64_GLOB_DAT, c.R_X86_64_JUMP_SLOT, c.R_X86_64_32)
)
"""Those whose value has S, which for an IFUNC is what its resolver says."""
Work = Generator[Effect, int, None]


def relocate_object(
    rtld: Rtld, map_: LinkMap, lazy: bool, *, skip_ifunc: bool = False, audited: bool = True
) -> Work:
    """Apply every relocation of `map_`, then protect its RELRO range.

    `lazy` leaves PLT slots to the resolver, `skip_ifunc` calls no resolver.

    Unless it is not `audited`, the calls and bindings of its PLT slots are for auditors to hear of; calls can
    be only while slots are lazy.

    Raises LoaderError for a symbol that is not found, UnsupportedError for an unknown relocation type.
    """
    if map_.relocated:
        return
    calls, bindings = wishes(rtld) if audited and rtld.auditors else (False, False)
    if not calls and (map_.dynamic.flags & c.DF_BIND_NOW or map_.dynamic.flags_1 & c.DF_1_NOW):
        lazy = False
    if rtld.bus.reloc:
        rtld.bus.emit(RelocationStarted(map_.display_name, lazy))
    yield from _Relocator(rtld, map_, lazy, skip_ifunc=skip_ifunc, calls=calls).run()
    if (calls or bindings) and map_.dynamic.get(c.DT_PLTRELSZ) is not None:
        yield from audit_slots(rtld, map_)
    map_.relocated = True
    rtld.mirror.flags(map_)
    protect_relro(rtld, map_)


def relocate_bootstrap(rtld: Rtld, map_: LinkMap) -> Work:
    """Relocate ld.so by itself alone, as it does at its own start: nobody else's symbols are there yet.

    It will be relocated again.

    Source: glibc elf/rtld.c:_dl_start.
    """
    yield from _Relocator(rtld, map_, False, bootstrap=True).run()


def bad_type(map_: LinkMap, kind: int, *, plt: bool = False) -> LoaderError:
    """Return what ld.so says of a relocation type that it does not know, or not in
    the PLT of an object that is bound lazily.
    """
    digits = f"{kind:08x}" if kind > 0xFF else f"{kind:02x}"
    return LoaderError(map_.name, f"unexpected {'PLT ' * plt}reloc type 0x{digits}")


class _Relocator:
    """The state of relocating one object: its memory, its references, and counts."""

    def __init__(
        self,
        rtld: Rtld,
        map_: LinkMap,
        lazy: bool,
        *,
        skip_ifunc: bool = False,
        bootstrap: bool = False,
        calls: bool = False,
    ) -> None:
        self.rtld, self.map, self.lazy = rtld, map_, lazy
        self.skip_ifunc, self.bootstrap, self.calls = skip_ifunc, bootstrap, calls
        self.audited = bool(rtld.auditors) and rtld.rules.second_audit_interface
        self.memory = RelocatedView(rtld.memory, map_)
        self.view = self.memory.bytes
        self.references = References(rtld, map_, bootstrap=bootstrap)
        self.own = b""
        self.ifuncs = self.lazy_slots = self.relative = 0

    def run(self) -> Work:
        """Do RELR, RELA and JMPREL in this order."""
        map_, memory = self.map, self.rtld.memory
        if map_ is not self.rtld.ld_so or self.bootstrap:
            if self.rtld.rules.relative_words_read:
                self.relative += self.memory.add_base(map_.table(memory, c.DT_RELR))
        rela, rela_cut = map_.leading_table(memory, c.DT_RELA)
        plt, plt_cut = map_.leading_table(memory, c.DT_JMPREL)
        if (rela or plt) and map_.dynamic.get(c.DT_SYMTAB) is None:
            raise ElfError(map_.display_name, "dynamic section has no DT_SYMTAB")
        if plt and rela and self._plt_inside_rela():
            rela = rela[: -len(plt)]
        try:
            skip = self._relative(rela)
            rela = rela[skip * 24 :]
            if plt and not self.lazy and self._plt_follows_rela():
                rela, plt = rela + plt, b""  # one range: all IRELATIVE come at its end
            yield from self._entries(self._without_own(rela, lazy=False), lazy=False)
            if plt:
                if self.lazy:
                    self._prepare_plt()
                yield from self._entries(self._without_own(plt, lazy=self.lazy), lazy=self.lazy)
            for at in range(0, len(self.own), c.RELA_SIZE):
                yield from self._entries(self.own[at : at + c.RELA_SIZE], lazy=False)
            if rela_cut or plt_cut:
                raise ElfError(map_.display_name, "a table of relocations passes the end of its segment")
        except (struct.error, IndexError):
            raise ElfError(map_.display_name, "a relocation's offset lies outside the object") from None
        if self.rtld.bus.reloc:
            self.rtld.bus.emit(
                Relocated(
                    map_.display_name, self.relative, self.references.count, self.lazy_slots, self.ifuncs
                )
            )

    def _without_own(self, table: bytes, *, lazy: bool) -> bytes:
        """Return a table without those entries that wait for the object's own
        resolvers, if its release makes them wait.
        """
        if self.rtld.rules.own_ifuncs_last:
            table, own = own_ifuncs.split(table, self.map.symtab, lazy=lazy)
            self.own += own
        return table

    def _plt_inside_rela(self) -> bool:
        """Whether the PLT's relocations are the end of the others:
        they are said to be in both tables then.
        """
        rela, rela_size = self.map.dynamic.table(c.DT_RELA)
        plt, plt_size = self.map.dynamic.table(c.DT_JMPREL)
        return rela <= plt and plt + plt_size == rela + rela_size

    def _plt_follows_rela(self) -> bool:
        rela, rela_size = self.map.dynamic.table(c.DT_RELA)
        return self._plt_inside_rela() or rela + rela_size == self.map.dynamic.table(c.DT_JMPREL)[0]

    def _relative(self, table: bytes) -> int:
        """Apply the leading RELATIVE entries (DT_RELACOUNT of them); return their number."""
        count = self.map.dynamic.get(c.DT_RELACOUNT) or 0
        if self.map is self.rtld.ld_so and not self.bootstrap:
            return count  # done when it relocated itself; what has been written there since must stay
        leading = table[: count * 24]
        if not all_relative(leading):
            where = ("../sysdeps/x86_64/dl-machine.h", 487, "elf_machine_rela_relative")
            raise Inconsistency(*where, "ELFW(R_TYPE) (reloc->r_info) == R_X86_64_RELATIVE")
        self.memory.put_relative(leading)
        if count * 24 > len(table):  # ld.so goes on with what lies behind the table
            raise ElfError(self.map.display_name, f"DT_RELACOUNT {count} exceeds the table")
        self.relative += count
        return count

    def _prepare_plt(self) -> None:
        """Give PLT0 its two words: the link map and the resolver.

        Source: dl-machine.h:elf_machine_runtime_setup.
        """
        got = self.map.dynamic.get(c.DT_PLTGOT)
        if got is None:
            raise ElfError(self.map.display_name, "DT_JMPREL without DT_PLTGOT")
        _PUT64(self.view, self.memory.at(got + 8), self.map.address)
        entries = self.rtld.entries
        _PUT64(
            self.view,
            self.memory.at(got + 16),
            entries.runtime_profile if self.calls else entries.runtime_resolve,
        )

    def _entries(self, table: bytes, *, lazy: bool) -> Work:
        """Apply entries in the letters of psABI table 4.10:
        S is the symbol's address, A the addend, P the place, B the base, Z the size.
        """
        memory, view, B = self.memory, self.view, self.memory.base
        first, low, high = memory.first, memory.low, memory.high
        without_symbol = _NO_SYMBOL | {c.R_X86_64_JUMP_SLOT} if lazy else _NO_SYMBOL
        irelative: list[tuple[int, int]] = []
        for offset, info, A in iter_rela(table, self.map.display_name):
            kind, symbol, at = info & 0xFFFFFFFF, info >> 32, offset - first
            if lazy or not low <= offset < high:
                self._check(kind, offset, lazy=lazy)
            found, S = None, 0
            if kind not in without_symbol:
                found = self.references.resolve(symbol, kind, offset)
                if self.rtld.owed.pending:
                    yield from self.rtld.owed.settle()
                if found is not None and kind in _BY_ADDRESS:
                    S = found.address
                    if found.info & 15 == c.STT_GNU_IFUNC and found.is_ifunc:
                        S = yield from self.call_resolver(found, S, kind)
            match kind:
                case c.R_X86_64_NONE:
                    pass
                case c.R_X86_64_64:
                    _PUT64(view, at, (S + A) & _M64)
                case c.R_X86_64_PC32:
                    self._put32(at, S + A - (B + offset), symbol, kind)
                case c.R_X86_64_COPY:
                    self._copy(found, symbol, at)
                case c.R_X86_64_GLOB_DAT:
                    _PUT64(view, at, S)
                case c.R_X86_64_JUMP_SLOT if lazy:
                    self.lazy_slots += 1
                    _PUT64(view, at, (_GET64(view, at)[0] + B) & _M64)
                case c.R_X86_64_JUMP_SLOT:
                    _PUT64(view, at, S)
                    if self.audited:
                        yield from self._tell_auditors(found, symbol, at, S)
                case c.R_X86_64_RELATIVE | c.R_X86_64_RELATIVE64:
                    self.relative += 1
                    _PUT64(view, at, (B + A) & _M64)
                case c.R_X86_64_32:
                    self._put32(at, S + A, symbol, kind)
                case c.R_X86_64_DTPMOD64:
                    _PUT64(view, at, found.map.tls_modid if found is not None else 0)
                case c.R_X86_64_DTPOFF64:
                    if found is not None:
                        _PUT64(view, at, (found.value + A) & _M64)
                case c.R_X86_64_TPOFF64:
                    if found is not None:
                        below = yield from self._static_tls(found.map, symbol, kind)
                        _PUT64(view, at, (found.value + A - below) & _M64)
                case c.R_X86_64_SIZE32:
                    self._put32(at, (found.size if found is not None else 0) + A, symbol, kind)
                case c.R_X86_64_SIZE64:
                    _PUT64(view, at, ((found.size if found is not None else 0) + A) & _M64)
                case c.R_X86_64_TLSDESC:
                    yield from self._tls_descriptor(found, at, A)
                case c.R_X86_64_IRELATIVE:
                    irelative.append((at, (B + A) & _M64))
                case _:
                    raise bad_type(self.map, kind)
        yield from self._irelative(irelative)

    def _check(self, kind: int, offset: int, *, lazy: bool) -> None:
        """Refuse a relocation that ld.so does not know there, or that lies where nothing may be written.

        Raises LoaderError, ElfError.
        """
        if lazy and kind not in _LAZY:
            raise bad_type(self.map, kind, plt=True)
        if not self.memory.low <= offset < self.memory.high and kind != c.R_X86_64_NONE:
            if kind not in _KNOWN:
                raise bad_type(self.map, kind)
            self.memory.at(offset)

    def _irelative(self, entries: list[tuple[int, int]]) -> Work:
        """Fill slots, by their places in the view, with what their resolvers say."""
        for at, resolver in entries:
            self.ifuncs += 1
            if not self.skip_ifunc:
                resolver = yield from self._run_resolver(c.R_X86_64_IRELATIVE, resolver)
            _PUT64(self.view, at, resolver)

    def _tell_auditors(self, found: Found | None, symbol: int, at: int, value: int) -> Work:
        """Let auditors hear of a slot that is bound for good, and change where it leads."""
        if not self.references.binds_locally(symbol):
            self.rtld.cached_lookups += 1
        if found is not None:
            _PUT64(self.view, at, (yield from symbind(self.rtld, self.map, found, value, None)))

    def _put32(self, at: int, value: int, symbol: int, kind: int) -> None:
        fits = -(1 << 31) <= value < 1 << 31 if kind == c.R_X86_64_PC32 else 0 <= value & _M64 < 1 << 32
        if not fits:
            name = self.map.symtab.symbol_name(symbol).decode(errors="replace")
            text = f"Symbol `{name}' causes overflow in {reloc_name(kind)} relocation"
            self.rtld.warn(text)
        _PUT32(self.view, at, value & 0xFFFFFFFF)

    def _copy(self, found: Found | None, symbol: int, at: int) -> None:
        if found is None:
            return
        mine = symbol_of(self.map, symbol)
        if found.size > mine.size or (found.size < mine.size and self.rtld.verbose):
            name = self.map.symtab.symbol_name(symbol).decode(errors="replace")
            self.rtld.warn(f"Symbol `{name}' has different size in shared object, consider re-linking")
        size = min(mine.size, found.size)
        data = self.rtld.memory.read(found.address, size)
        if at + size > len(self.view):
            raise ElfError(self.map.display_name, "a COPY relocation passes the end of the object")
        self.view[at : at + size] = data

    def _static_tls(self, target: LinkMap, symbol: int, kind: int) -> Generator[Effect, int, int]:
        """Return the static TLS offset of `target`, which gets one from the surplus if it has none."""
        if target.tls_modid == 0:
            raise LoaderError(
                target.display_name, "symbol is thread-local, but the object has no TLS segment"
            )
        if target.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
            try:
                yield from self.rtld.tls.allocate_static(target)
            except LoaderError as error:
                error.fact = NoStaticTls(target, self.map, symbol, kind)
                raise
            self.rtld.mirror.tls_offset(target)
        return target.tls_offset

    def _tls_descriptor(self, found: Found | None, at: int, addend: int) -> Work:
        """Fill the two words of a TLS descriptor: entry and argument.

        Source: psABI 4.4, TLSDESC; dl-machine.h.
        """
        entries, view = self.rtld.entries, self.view
        if found is None:
            _PUT64(view, at, entries.tlsdesc_undefweak)
            _PUT64(view, at + 8, addend & _M64)
            return
        target = found.map
        value = found.value + addend
        if target.tls_offset == NO_TLS_OFFSET:
            yield from self.rtld.tls.try_allocate_static(target, optional=True)
            self.rtld.mirror.tls_offset(target)
        if target.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
            _PUT64(view, at, entries.tlsdesc_dynamic)
            _PUT64(view, at + 8, self.rtld.tls.dynamic_argument(target, value & _M64))
            return
        _PUT64(view, at, entries.tlsdesc_return)
        _PUT64(view, at + 8, (value - target.tls_offset) & _M64)

    # -- IFUNCs ----------------------------------------------------------------------------------------------

    def _run_resolver(self, kind: int, resolver: int) -> Generator[CallGuest, int, int]:
        """Call a resolver for a relocation of type `kind`, and let it be known meanwhile."""
        self.rtld.resolving = self.map, kind, resolver
        value = yield CallGuest(resolver)
        self.rtld.resolving = None
        return value

    def call_resolver(self, found: Found, resolver: int, kind: int) -> Generator[CallGuest, int, int]:
        """Call an IFUNC resolver; return the address that it picked."""
        if self.skip_ifunc:
            return resolver
        self.ifuncs += 1
        target = found.map
        if target is not self.map and not target.relocated:
            name = found.name.decode(errors="replace")
            if target.type == LT_EXECUTABLE:
                text = (
                    f"IFUNC symbol '{name}' referenced in '{self.map.display_name}' is defined in the executable "
                    "and creates an unsatisfiable circular dependency."
                )
                raise LoaderError("", text)
            self.rtld.warn(
                f"Relink `{self.map.display_name}' with `{target.display_name}' for IFUNC symbol `{name}'"
            )
        return (yield from self._run_resolver(kind, resolver))
