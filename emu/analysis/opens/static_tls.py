"""Why an object got no static TLS: what it needs, what is left of the surplus and who
took the rest, and what would make room.

Source: glibc elf/dl-tls.c:_dl_tls_static_surplus_init, elf/dl-reloc.c:_dl_try_allocate_static_tls; "ELF
Handling for Thread-Local Storage".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, Trial
from emu.analysis.opens.looking import base
from emu.elf import constants as c
from emu.elf.demangle import demangle
from emu.elf.relocations import iter_rela, reloc_name
from emu.rtld.link_map import FORCED_DYNAMIC_TLS_OFFSET, LT_LOADED, NO_TLS_OFFSET
from emu.rtld.tls_surplus import surplus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.analysis.opens.looking import Looking
    from emu.rtld.failure import NoStaticTls
    from emu.rtld.link_map import LinkMap

_TUNABLE = "glibc.rtld.optional_static_tls"


class StaticTlsStory:
    """One module that needs a place at a fixed distance from the thread pointer, and got none."""

    def __init__(self, looking: Looking, fact: NoStaticTls, opened: LinkMap | None) -> None:
        self.looking, self.fact, self.opened = looking, fact, opened
        self.rtld, self.module = looking.rtld, fact.module
        tls = self.rtld.tls
        self.total = tls.surplus
        self.room = tls.static_size - tls.static_used - tls.tcb_size
        self.size = self.module.tls_blocksize + self.module.tls_firstbyte_offset

    @property
    def reason(self) -> str:
        """Which of the three it is: dynamic (it has been used dynamically already), alignment, or room."""
        if self.module.tls_offset == FORCED_DYNAMIC_TLS_OFFSET:
            return "dynamic"
        return "alignment" if self.module.tls_align > self.rtld.tls.static_align else "room"

    def story(self) -> Iterator[str]:
        """Yield what happened, in sentences."""
        module, fact, tls = self.module, self.fact, self.rtld.tls
        name = base(module.display_name)
        yield f"{name} has initial-exec TLS: {reloc_name(fact.kind)} {self._against()}"
        block = f"its TLS block has {module.tls_blocksize} bytes, aligned to {module.tls_align}"
        yield f"{block}, and must lie in the static TLS area of every thread, which was laid out at start-up"
        if self.reason == "dynamic":
            yield f"{name} was used by the dynamic model before (__tls_get_addr has given it a block elsewhere), so that it cannot get a static one any more"
            return
        if self.reason == "alignment":
            yield f"the area is aligned to {tls.static_align} bytes only, as what was there at start-up asked for"
            return
        taken = self.taken()
        who = (
            "; taken: " + ", ".join(f"{used} by {base(map_.display_name)}" for map_, used in taken)
            if taken
            else ""
        )
        free = max(self.room, 0)
        yield (
            f"{free} bytes are free in it (the surplus for objects that come later is {self.total}, rounded up for alignment{who}): "
            f"{self.size - free} too few"
        )
        if self.rtld.auditors:
            yield "auditors (LD_AUDIT) change the layout: the program's own libraries are served from the surplus, too"

    def _against(self) -> str:
        """Return what the relocation is against: a symbol, or (symbol 0) the module's
        own variables by their offset.
        """
        by = self.fact.by
        if self.fact.symbol:
            symbol = demangle(by.symtab.symbol_name(self.fact.symbol).decode(errors="replace"))
            return f"against {symbol}" + (f" in {base(by.display_name)}" if by is not self.module else "")
        names = []
        for tag in (c.DT_RELA, c.DT_JMPREL):
            for _, info, addend in iter_rela(by.table(self.rtld.memory, tag), by.display_name):
                if info & 0xFFFFFFFF == self.fact.kind and not info >> 32:
                    variable = self.looking.process.symbols.tls_variable(by, addend)
                    names.append(
                        variable[0] if variable is not None else f"offset {addend:#x} of its TLS block"
                    )
        return f"against {', '.join(dict.fromkeys(names))}" if names else ""

    def taken(self) -> list[tuple[LinkMap, int]]:
        """Return who has been served from the surplus, each with the bytes of its
        block, in the order of loading.
        """
        tls = self.rtld.tls
        at_start = tls.static_size - tls.tcb_size - self.total
        found = []
        for ns in self.rtld.namespaces:
            for map_ in ns.maps:
                late = map_.type == LT_LOADED or bool(self.rtld.auditors)
                static = map_.tls_offset not in (NO_TLS_OFFSET, FORCED_DYNAMIC_TLS_OFFSET)
                if map_.tls_blocksize and static and late and map_.tls_offset > at_start - tls.static_align:
                    found.append((map_, map_.tls_blocksize))
        return found

    def cures(self) -> Iterator[Cure]:
        """Yield what would make room; sizes were computed by the linker's own rules."""
        name = base(self.module.display_name)
        if self.reason == "room" and (value := self._tunable()):
            text = f"GLIBC_TUNABLES={_TUNABLE}={value}, set before the program starts"
            yield Cure(
                "tunable",
                self.module.display_name,
                text,
                f"the surplus is then {self._surplus(value)[0]} bytes",
                trial=Trial(env=(("GLIBC_TUNABLES", self._with_tunable(value)),)),
            )
        if not self.module.ns:
            shown = self.looking.shown(self.module.path)
            path = shown if "/" in shown else f"./{shown}"
            result = "it gets its place when the static area is laid out"
            yield Cure(
                "preload",
                self.module.display_name,
                f"LD_PRELOAD={path}, or link the program with {name}",
                result,
                trial=self.looking.preloading(path),
            )
        if self.reason == "dynamic":
            text = f"open what needs {name} by initial-exec before its TLS is used"
            yield Cure(
                "order",
                self.module.display_name,
                text,
                "the place is given when the reference is bound",
                False,
            )
        text = f"build {name} without -ftls-model=initial-exec (or the attribute tls_model): with -fPIC the default is the dynamic model"
        if self.fact.by is not self.module:
            text = f"build {base(self.fact.by.display_name)} without the initial-exec model for what {name} defines"
        yield Cure(
            "model", self.fact.by.display_name, text, "its TLS is then allocated when a thread uses it", False
        )
        for map_, used in self.taken() if self.reason == "room" else ():
            if used + max(self.room, 0) >= self.size and map_.direct_opencount:
                text = f"dlclose {base(map_.display_name)} before, or open it later"
                yield Cure("close", map_.display_name, text, f"{used} bytes are given back")

    def _with_tunable(self, optional: int) -> str:
        earlier = self.rtld.env.get("GLIBC_TUNABLES", "")
        return f"{earlier}:{_TUNABLE}={optional}" if earlier else f"{_TUNABLE}={optional}"

    def _surplus(self, optional: int) -> tuple[int, int]:
        auditors = len(self.rtld.auditor_names or ())
        return surplus(self._with_tunable(optional), auditors)

    def _tunable(self) -> int:
        """Return the least value (a multiple of 64) with which there is room, 0 if there is none."""
        missing = self._wanted() - max(self.room, 0)
        _, optional = surplus(self.rtld.env.get("GLIBC_TUNABLES", ""), len(self.rtld.auditor_names or ()))
        value = -(-(optional + missing) // 64) * 64
        enough = self._surplus(value)[0] - self.total + max(self.room, 0) >= self._wanted()
        return value if enough else 0

    def _wanted(self) -> int:
        """Return the bytes that all objects of this open want which say that they need static TLS
        (DF_STATIC_TLS), gaps for alignment included.
        """
        others = self.opened.searchlist if self.opened is not None else ()
        static = [
            m
            for m in others
            if m.dynamic.flags & c.DF_STATIC_TLS and m.tls_blocksize and m.tls_offset == NO_TLS_OFFSET
        ]
        wanting = dict.fromkeys((self.module, *static))
        return sum(m.tls_blocksize + m.tls_firstbyte_offset + m.tls_align - 1 for m in wanting)
