"""Relocation: S, A, P, G and the rest of psABI table 4.10, applied to one object.

RELR and RELATIVE entries, most of all, need no symbol and are done in bulk. PLT slots stay lazy where they may. An
IFUNC is resolved when its relocation is met, in table order but IRELATIVE last, by a call of the guest's resolver: hence this is a generator.

Source: psABI 4.4; glibc elf/dl-reloc.c:_dl_relocate_object, elf/dynamic-link.h, elf/do-rel.h, sysdeps/x86_64/dl-machine.h:elf_machine_rela.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Generator
from typing import TYPE_CHECKING

from emu.core.effects import CallGuest, Effect
from emu.core.errors import ElfError, LoaderError, UnsupportedError
from emu.core.events import Relocated, RelocationStarted, RelroProtected
from emu.elf import constants as c
from emu.elf.relocations import iter_rela, reloc_name, relr_addresses
from emu.rtld.audit_binding import audit_slots, symbind, wishes
from emu.rtld.dependency import FOR_RELOCATE
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, NO_TLS_OFFSET, LinkMap
from emu.rtld.lookup import CLASS_COPY, CLASS_PLT, Found
from emu.rtld.runtime import emit_binding, resolve

if TYPE_CHECKING:
    from emu.rtld.rtld import Rtld

_SYM = struct.Struct("<IBBHQQ").unpack_from
_PUT64 = struct.Struct("<Q").pack_into
_PUT32 = struct.Struct("<I").pack_into
_GET64 = struct.Struct("<Q").unpack_from
_M64 = (1 << 64) - 1
_PAGE = 4096
_PLT_CLASS = frozenset(
    (c.R_X86_64_JUMP_SLOT, c.R_X86_64_DTPMOD64, c.R_X86_64_DTPOFF64, c.R_X86_64_TPOFF64, c.R_X86_64_TLSDESC)
)
Work = Generator[Effect, int, None]


def type_class(kind: int) -> int:
    """Return the look-up's type class for a relocation type: a reference of a PLT slot or TLS, of a COPY, or any other."""
    return CLASS_PLT if kind in _PLT_CLASS else CLASS_COPY if kind == c.R_X86_64_COPY else 0


def relocate_object(
    rtld: Rtld, map_: LinkMap, lazy: bool, *, skip_ifunc: bool = False, audited: bool = True
) -> Work:
    """Apply every relocation of `map_`, then protect its RELRO range. `lazy` leaves PLT slots to the resolver, `skip_ifunc` calls no resolver.

    Unless it is not `audited`, the calls and bindings of its PLT slots are for auditors to hear of; calls can be only while slots are lazy.

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
    """Relocate ld.so by itself alone, as it does at its own start: nobody else's symbols are there yet. It will be relocated again.

    Source: glibc elf/rtld.c:_dl_start.
    """
    yield from _Relocator(rtld, map_, False, bootstrap=True).run()


def protect_relro(rtld: Rtld, map_: LinkMap) -> None:
    """Make the whole pages of the RELRO range read-only. Source: glibc elf/dl-reloc.c:_dl_protect_relro."""
    if map_.relro is None:
        return
    start = map_.relro[0] & -_PAGE
    end = (map_.relro[0] + map_.relro[1]) & -_PAGE
    if start < end:
        try:
            if start < map_.map_start & -_PAGE or end > -(-map_.map_end // _PAGE) * _PAGE:
                raise OSError(errno.ENOMEM, "RELRO range outside the object")
            rtld.mappings.mprotect(start, end - start, 1)
        except OSError as error:
            raise LoaderError(
                map_.display_name,
                "cannot apply additional memory protection after relocation",
                error.errno or 0,
            ) from None
        if rtld.bus.reloc:
            rtld.bus.emit(RelroProtected(map_.display_name, start, end))


class _Relocator:
    """The state of relocating one object: views of its memory and the results of look-ups by symbol and class.

    ld.so remembers only the last look-up. To remember all gives the same results; `last` is what ld.so would have, for the count of look-ups.
    """

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
        self.audited = bool(rtld.auditors)
        self.last: tuple[int, int] | None = None
        self.base = map_.addr
        self.first = map_.map_start - map_.addr
        self.view = rtld.memory.span(map_.map_start, map_.map_end - map_.map_start)
        self.cache: dict[tuple[int, int], Found | None] = {}
        self.symbolic = self.ifuncs = self.lazy_slots = self.relative = 0

    def run(self) -> Work:
        """Do RELR, RELA and JMPREL in this order."""
        map_, memory = self.map, self.rtld.memory
        if map_ is not self.rtld.ld_so or self.bootstrap:
            self._relr(map_.table(memory, c.DT_RELR))
        rela = map_.table(memory, c.DT_RELA)
        plt = map_.table(memory, c.DT_JMPREL)
        if plt and rela and rela.endswith(plt) and self._plt_inside_rela():
            rela = rela[: -len(plt)]
        try:
            skip = self._relative(rela)
            rela = rela[skip * 24 :]
            if plt and not self.lazy and self._plt_follows_rela():
                rela, plt = rela + plt, b""  # one range: all IRELATIVE come at its end
            yield from self._entries(rela, lazy=False)
            if plt:
                if self.lazy:
                    self._prepare_plt()
                yield from self._entries(plt, lazy=self.lazy)
        except (struct.error, IndexError):
            raise ElfError(map_.display_name, "a relocation's offset lies outside the object") from None
        if self.rtld.bus.reloc:
            self.rtld.bus.emit(
                Relocated(map_.display_name, self.relative, self.symbolic, self.lazy_slots, self.ifuncs)
            )

    def _plt_inside_rela(self) -> bool:
        rela, rela_size = self.map.dynamic.table(c.DT_RELA)
        plt, plt_size = self.map.dynamic.table(c.DT_JMPREL)
        return rela <= plt and plt + plt_size == rela + rela_size

    def _plt_follows_rela(self) -> bool:
        rela, rela_size = self.map.dynamic.table(c.DT_RELA)
        return self._plt_inside_rela() or rela + rela_size == self.map.dynamic.table(c.DT_JMPREL)[0]

    def _relr(self, table: bytes) -> None:
        base, view = self.base, self.view
        for vaddr in relr_addresses(table, self.map.display_name):
            at = self._at(vaddr)
            _PUT64(view, at, (_GET64(view, at)[0] + base) & _M64)
            self.relative += 1

    def _at(self, vaddr: int) -> int:
        at = vaddr - self.first
        if at < 0:
            raise ElfError(self.map.display_name, f"relocation offset {vaddr:#x} lies outside the object")
        return at

    def _relative(self, table: bytes) -> int:
        """Apply the leading RELATIVE entries (DT_RELACOUNT of them); return their number."""
        count = self.map.dynamic.get(c.DT_RELACOUNT) or 0
        if count * 24 > len(table):
            raise ElfError(self.map.display_name, f"DT_RELACOUNT {count} exceeds the table")
        base, first, view, put = self.base, self.first, self.view, _PUT64
        for offset, info, addend in iter_rela(table[: count * 24], self.map.display_name):
            if info & 0xFFFFFFFF != c.R_X86_64_RELATIVE:
                raise ElfError(self.map.display_name, "DT_RELACOUNT counts an entry that is not RELATIVE")
            if offset < first:
                self._at(offset)
            put(view, offset - first, (base + addend) & _M64)
        self.relative += count
        return count

    def _prepare_plt(self) -> None:
        """Give PLT0 its two words: the link map and the resolver. Source: dl-machine.h:elf_machine_runtime_setup."""
        got = self.map.dynamic.get(c.DT_PLTGOT)
        if got is None:
            raise ElfError(self.map.display_name, "DT_JMPREL without DT_PLTGOT")
        _PUT64(self.view, self._at(got + 8), self.map.address)
        entries = self.rtld.entries
        _PUT64(
            self.view, self._at(got + 16), entries.runtime_profile if self.calls else entries.runtime_resolve
        )

    def _entries(self, table: bytes, *, lazy: bool) -> Work:
        view, first, base = self.view, self.first, self.base
        name = self.map.display_name
        irelative: list[tuple[int, int]] = []
        for offset, info, addend in iter_rela(table, name):
            kind = info & 0xFFFFFFFF
            at = offset - first
            if at < 0:
                self._at(offset)
            if (
                kind == c.R_X86_64_64
                or kind == c.R_X86_64_GLOB_DAT
                or (kind == c.R_X86_64_JUMP_SLOT and not lazy)
            ):
                self.symbolic += 1
                found = self.resolve(info >> 32, kind, offset)
                value = self.value(found) if found is not None else 0
                if found is not None and self.is_ifunc(found):
                    value = yield from self.call_resolver(found, value)
                _PUT64(view, at, (value + (addend if kind == c.R_X86_64_64 else 0)) & _M64)
                if self.audited and kind == c.R_X86_64_JUMP_SLOT:
                    if not self._binds_locally(info >> 32):
                        self.rtld.cached_lookups += 1
                    if found is not None:
                        _PUT64(view, at, (yield from symbind(self.rtld, self.map, found, value, None)))
            elif kind == c.R_X86_64_JUMP_SLOT:
                self.lazy_slots += 1
                slot = _GET64(view, at)[0]
                _PUT64(view, at, (slot + base) & _M64)
            elif kind == c.R_X86_64_RELATIVE or kind == c.R_X86_64_RELATIVE64:
                self.relative += 1
                _PUT64(view, at, (base + addend) & _M64)
            elif kind == c.R_X86_64_IRELATIVE:
                irelative.append((at, (base + addend) & _M64))
            elif kind != c.R_X86_64_NONE:
                self.symbolic += 1
                yield from self._other(kind, info >> 32, offset, at, addend)
        for at, resolver in irelative:
            self.ifuncs += 1
            _PUT64(view, at, resolver if self.skip_ifunc else (yield CallGuest(resolver)))

    def _other(self, kind: int, symbol: int, offset: int, at: int, addend: int) -> Work:
        view = self.view
        found = self.resolve(symbol, kind, offset) if symbol or kind == c.R_X86_64_COPY else (self.map, 0)
        if kind == c.R_X86_64_DTPMOD64:
            _PUT64(view, at, found[0].tls_modid if found is not None else 0)
        elif kind == c.R_X86_64_DTPOFF64:
            if found is not None:
                _PUT64(view, at, (self.st_value(found) + addend) & _M64)
        elif kind == c.R_X86_64_TPOFF64:
            if found is not None:
                offset_ = self._static_tls(found[0])
                _PUT64(view, at, (self.st_value(found) + addend - offset_) & _M64)
        elif kind == c.R_X86_64_TLSDESC:
            self._tls_descriptor(found, at, addend)
        elif kind in (c.R_X86_64_SIZE64, c.R_X86_64_SIZE32):
            size = _SYM(found[0].symtab.data, found[1] * 24)[5] if found is not None else 0
            self._store(kind == c.R_X86_64_SIZE64, at, size + addend, symbol, kind)
        elif kind in (c.R_X86_64_32, c.R_X86_64_PC32):
            value = self.value(found) if found is not None else 0
            if found is not None and self.is_ifunc(found):
                value = yield from self.call_resolver(found, value)
            pc = self.base + offset if kind == c.R_X86_64_PC32 else 0
            self._store(False, at, value + addend - pc, symbol, kind)
        elif kind == c.R_X86_64_COPY:
            self._copy(found, symbol, at)
        else:
            where = f"{self.map.display_name} at offset {offset:#x}"
            if self.rtld.started:
                raise LoaderError(self.map.name, f"unexpected reloc type 0x{kind:02x}")
            raise UnsupportedError(f"relocation {reloc_name(kind)} (type {kind})", where)

    def _store(self, wide: bool, at: int, value: int, symbol: int, kind: int) -> None:
        if wide:
            _PUT64(self.view, at, value & _M64)
            return
        fits = -(1 << 31) <= value < 1 << 31 if kind == c.R_X86_64_PC32 else 0 <= value & _M64 < 1 << 32
        if not fits:
            name = self.map.symtab.symbol_name(symbol).decode(errors="replace")
            text = f"Symbol `{name}' causes overflow in {reloc_name(kind)} relocation"
            self.rtld.warn(text)
        _PUT32(self.view, at, value & 0xFFFFFFFF)

    def _copy(self, found: Found | None, symbol: int, at: int) -> None:
        if found is None:
            return
        mine = self.map.symtab.fields(symbol)
        theirs = found[0].symtab.fields(found[1])
        if theirs[5] > mine[5] or (theirs[5] < mine[5] and self.rtld.verbose):
            name = self.map.symtab.symbol_name(symbol).decode(errors="replace")
            self.rtld.warn(f"Symbol `{name}' has different size in shared object, consider re-linking")
        size = min(mine[5], theirs[5])
        data = self.rtld.memory.read(self.value(found), size)
        if at + size > len(self.view):
            raise ElfError(self.map.display_name, "a COPY relocation passes the end of the object")
        self.view[at : at + size] = data

    def _static_tls(self, target: LinkMap) -> int:
        """Return the static TLS offset of `target`, which gets one from the surplus if it has none."""
        if target.tls_modid == 0:
            raise LoaderError(
                target.display_name, "symbol is thread-local, but the object has no TLS segment"
            )
        if target.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
            self.rtld.tls.allocate_static(target)
            self.rtld.mirror.tls_offset(target)
        return target.tls_offset

    def _tls_descriptor(self, found: Found | None, at: int, addend: int) -> None:
        """Fill the two words of a TLS descriptor: entry and argument. Source: psABI 4.4, TLSDESC; dl-machine.h."""
        entries, view = self.rtld.entries, self.view
        if found is None:
            _PUT64(view, at, entries.tlsdesc_undefweak)
            _PUT64(view, at + 8, addend & _M64)
            return
        target = found[0]
        value = self.st_value(found) + addend
        if target.tls_offset == NO_TLS_OFFSET and self.rtld.tls.try_allocate_static(target, optional=True):
            self.rtld.mirror.tls_offset(target)
        if target.tls_offset in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET):
            _PUT64(view, at, entries.tlsdesc_dynamic)
            _PUT64(view, at + 8, self.rtld.tls.dynamic_argument(target, value & _M64))
            return
        _PUT64(view, at, entries.tlsdesc_return)
        _PUT64(view, at + 8, (value - target.tls_offset) & _M64)

    # -- symbols ----------------------------------------------------------------------------------------------------

    def resolve(self, symbol: int, kind: int, offset: int) -> Found | None:
        """Return what symbol `symbol` of the object binds to; None for an undefined weak one. Raises LoaderError."""
        class_ = type_class(kind)
        key = (symbol, class_)
        if self.bootstrap:
            return self.map, symbol
        cache, rtld = self.cache, self.rtld
        known = key in cache
        if known and key == self.last:
            rtld.cached_lookups += 1
            return cache[key]
        if not known and self._binds_locally(symbol):
            return self.map, symbol
        self.last = key
        if known and not (rtld.bus.symbols or rtld.bus.lookups or rtld.receive):
            rtld.lookups += 1
            return cache[key]
        found = cache[key] = resolve(rtld, self.map, symbol, class_, FOR_RELOCATE)
        if rtld.bus.bindings and not known:
            self.announce(symbol, found, kind, offset, lazy=False)
        return found

    def _binds_locally(self, symbol: int) -> bool:
        """Whether the reference is to the object's own symbol by its kind, without a look-up."""
        _, info, other, _, _, _ = self.map.symtab.fields(symbol)
        return symbol == 0 or info >> 4 == c.STB_LOCAL or other & 3 in (c.STV_HIDDEN, c.STV_INTERNAL)

    def announce(self, symbol: int, found: Found | None, kind: int, offset: int, *, lazy: bool) -> None:
        """Emit the Binding event."""
        emit_binding(self.rtld, self.map, symbol, found, kind, offset, lazy)

    def value(self, found: Found) -> int:
        """Return the run-time address of a definition (S)."""
        map_, index = found
        _, _, _, shndx, value, _ = _SYM(map_.symtab.data, index * 24)
        return int(value) if shndx == c.SHN_ABS else int(value + map_.addr) & _M64

    def st_value(self, found: Found) -> int:
        """Return st_value as it stands: an offset in the TLS block."""
        return 0 if found[1] == 0 else int(_SYM(found[0].symtab.data, found[1] * 24)[4])

    def is_ifunc(self, found: Found) -> bool:
        """Whether the definition is an IFUNC whose value is a resolver."""
        at = found[1] * 24
        data = found[0].symtab.data
        return data[at + 4] & 15 == c.STT_GNU_IFUNC and data[at + 6 : at + 8] != b"\0\0"

    def call_resolver(self, found: Found, resolver: int) -> Generator[CallGuest, int, int]:
        """Call an IFUNC resolver; return the address that it picked."""
        if self.skip_ifunc:
            return resolver
        self.ifuncs += 1
        target = found[0]
        if target is not self.map and not target.relocated:
            name = target.symtab.symbol_name(found[1]).decode(errors="replace")
            if target.type == 0:
                text = (
                    f"IFUNC symbol '{name}' referenced in '{self.map.display_name}' is defined in the executable "
                    "and creates an unsatisfiable circular dependency."
                )
                raise LoaderError("", text)
            self.rtld.warn(
                f"Relink `{self.map.display_name}' with `{target.display_name}' for IFUNC symbol `{name}'"
            )
        return (yield CallGuest(resolver))
