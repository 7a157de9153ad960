"""What is told of one failure: the cause by the linker's own facts, with its story."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from emu.analysis.opens.data import Cure, FailedOpen, SearchedPlace, Trial
from emu.analysis.opens.files import read_object, refusal, what_is
from emu.analysis.opens.looking import Looking, base
from emu.analysis.opens.no_file import NoFileStory
from emu.analysis.opens.no_version import NoVersionStory
from emu.analysis.opens.other_names import only_asked
from emu.analysis.opens.static_tls import StaticTlsStory
from emu.analysis.opens.undefined import UndefinedStory
from emu.core.errors import EmuError, LoaderError
from emu.core.record import NamedTuple
from emu.elf import constants as c
from emu.elf.edit import Edit
from emu.elf.versions import version_needs
from emu.rtld.failure import Failing, LostVersion, NoFile, NoStaticTls, NoVersion, Undefined
from emu.rtld.link_map import MappedImage

if TYPE_CHECKING:
    from emu.analysis.answer import Explanation
    from emu.analysis.frames import CallFrame
    from emu.analysis.stamp import Stamp
    from emu.process import Process
    from emu.rtld.link_map import LinkMap
    from emu.rtld.rtld import Rtld

_NOT_FOUND = "cannot open shared object file"
_ABSENT = (0, errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ELOOP)
_EI_OSABI, _IDENTIFIES = 7, 2
_OS_ABIS = {
    1: "HP-UX",
    2: "NetBSD",
    6: "Solaris",
    7: "AIX",
    8: "IRIX",
    9: "FreeBSD",
    12: "OpenBSD",
    97: "ARM",
}
_RTLD_NOLOAD = 4
_STACK = "cannot enable executable stack"
_MEMORY = ("failed to map segment", "cannot map zero-fill pages", "out of memory", "cannot allocate")


class ToldOpen(NamedTuple):
    """A cause, and what there is to say of it."""

    cause: str
    object: str
    symbol: str
    map: LinkMap | None
    story: tuple[str, ...]
    places: tuple[SearchedPlace, ...] = ()
    look_ups: tuple[Explanation, ...] = ()
    cures: tuple[Cure, ...] = ()


class OpenAttempt(NamedTuple):
    """The call that failed: which, for what file with which flags in which
    namespace, by which object, when and where.
    """

    call: str
    file: str
    flags: str
    namespace: int
    opener: str
    at: Stamp | None
    backtrace: tuple[CallFrame, ...]


def failed_open(
    process: Process,
    rtld: Rtld,
    call: OpenAttempt,
    text: str,
    error: EmuError | None,
    failing: Failing | None = None,
) -> FailedOpen:
    """Return the whole story of a failure, as things are at that moment: nothing of it is undone yet."""
    told = tell(process, rtld, error, failing)
    opened = failing.map if failing is not None else None
    chain = _chain(rtld, told.map, opened, told.object)
    names = [call.file, base(call.file), told.object, base(told.object), *chain, *map(base, chain)]
    if opened is not None:
        names += [opened.display_name, opened.path, opened.soname or "", *opened.lib_names]
    return FailedOpen(
        call.call, call.file, call.flags, call.namespace, call.opener, call.at, text, told.cause, told.object, told.symbol, chain,
        told.story, told.places, told.look_ups, told.cures, call.backtrace, tuple(dict.fromkeys(name for name in names if name)),
    )  # fmt: skip


def _chain(rtld: Rtld, map_: LinkMap | None, opened: LinkMap | None, object_: str) -> tuple[str, ...]:
    """Return how what failed came to be needed, what was opened first."""
    names = [object_] if object_ and (map_ is None or object_ != map_.display_name) else []
    while map_ is not None:
        names.append(map_.display_name)
        if map_ is opened:
            break
        map_ = map_.loader
    if opened is not None and opened.display_name not in names:
        names.append(opened.display_name)
    return tuple(reversed(names))


def tell(process: Process, rtld: Rtld, error: EmuError | None, failing: Failing | None) -> ToldOpen:
    """Return cause and story of an error."""
    looking = Looking(process, rtld)
    opened = failing.map if failing is not None else None
    fact = error.fact if error is not None else None
    if isinstance(fact, Undefined):
        undefined = UndefinedStory(looking, fact, failing)
        return ToldOpen(
            "undefined-symbol", fact.map.display_name, undefined.symbol, fact.map, tuple(undefined.story()), (), undefined.explanations,
            tuple(dict.fromkeys(undefined.cures())),
        )  # fmt: skip
    if isinstance(fact, NoVersion):
        version = NoVersionStory(looking, fact)
        return ToldOpen(
            "no-version", fact.provider.display_name, version.version, fact.map, tuple(version.story()), version.places(), (),
            tuple(version.cures()),
        )  # fmt: skip
    if isinstance(fact, LostVersion):
        return _lost_version(looking, rtld, fact)
    if isinstance(fact, NoStaticTls):
        tls = StaticTlsStory(looking, fact, opened)
        return ToldOpen(
            "static-tls",
            fact.module.display_name,
            "",
            fact.module,
            tuple(tls.story()),
            (),
            (),
            tuple(tls.cures()),
        )
    if isinstance(fact, NoFile):
        told = _of_file(looking, fact, error)
        if failing is None or not failing.mode & _RTLD_NOLOAD:
            return told
        story, cures = only_asked(looking.rtld, fact)
        return told._replace(story=(story, *told.story), cures=(*cures, *told.cures))
    return _of_words(looking, error, failing)


def _lost_version(looking: Looking, rtld: Rtld, fact: LostVersion) -> ToldOpen:
    """A library without versions stands for one that has them: ld.so's assertion about that does not hold."""
    map_, provider = fact.map, base(fact.provider.display_name)
    image = MappedImage(rtld.memory, map_.addr, map_.display_name)
    wanted = fact.version.name if fact.version is not None else b""
    needs = version_needs(image, map_.dynamic, map_.symtab.strings, map_.display_name)
    need = next((one for one in needs if one.name == wanted), None)
    story = [
        f"{provider} has no versions at all, though {base(map_.display_name)} was linked with one that has: ld.so cannot tell whether its symbols are"
        " those that are meant, and ends the process"
    ]
    if need is None:
        return ToldOpen("no-version", fact.provider.display_name, "", map_, tuple(story))
    version = NoVersionStory(looking, NoVersion(map_, need, fact.provider))
    return ToldOpen(
        "no-version", fact.provider.display_name, version.version, map_, (*story, *version.story()), version.places(), (), tuple(version.cures())
    )  # fmt: skip


def _of_file(looking: Looking, fact: NoFile, error: EmuError | None) -> ToldOpen:
    text = getattr(error, "text", "") or getattr(error, "reason", "")
    told = NoFileStory(looking, fact)
    loader = told.loader if not fact.called else None
    passed_over = text.startswith("wrong ELF class") and not told.is_path  # the search went on after those
    absent = text == _NOT_FOUND and (not isinstance(error, LoaderError) or error.errno in _ABSENT)
    if absent or passed_over:
        places = told.places()
        story = [_need(looking, fact)]
        if near := told.near():
            story.append(f"files of nearly that name are there: {', '.join(near)}")
        story += [*_wrong_kind(places), *told.of_musl()]
        return ToldOpen("no-file", fact.name, "", loader, tuple(story), places, (), tuple(told.cures()))
    path = next((path for path, _ in reversed(told.look.tried)), fact.name)
    if _STACK in text:
        return _stack(looking, path)
    if any(word in text for word in _MEMORY) and "past the end of the file" not in refusal(
        looking.files, path
    ):
        return _memory(looking, path)
    return _bad_file(looking, fact, error, text, loader)


def _need(looking: Looking, fact: NoFile) -> str:
    if any(fact.name == name for name, _, _ in looking.rtld.refused) and not fact.called:
        return f"{fact.name} is to be preloaded: it is searched for as if the program needed it, and the search for that found no file"
    if fact.loader is None:
        return f"{fact.name} is to be loaded, and there is no such file"
    who = fact.loader
    name = base(who.display_name)
    if fact.called and "/" in fact.name:
        return f"code of {name} opens {fact.name}: a name with a slash is a path, taken from the working directory ({looking.cwd}) if it does not begin with /"
    if fact.called:
        return f"code of {name} opens {fact.name}: a name without a slash is searched for on behalf of {name}, and not in the working directory"
    found = f" (found by {who.found_by})" if who.found_by not in ("program", "") else ""
    return f"{name}{found} needs {fact.name} (DT_NEEDED), and the search for that found no file"


def _wrong_kind(places: tuple[SearchedPlace, ...]) -> list[str]:
    passed = [
        one
        for place in places
        if place.searched
        for one in place.tried
        if one.outcome in ("wrong-class", "wrong-machine")
    ]
    return [f"{one.path} was passed over: {one.text}" for one in passed]


def _bad_file(
    looking: Looking, fact: NoFile, error: EmuError | None, text: str, loader: LinkMap | None
) -> ToldOpen:
    """A file was found, and it is no shared object that could be loaded."""
    named = getattr(error, "object_name", "") or fact.name
    look = looking.look(fact.name, fact.loader)
    path = next((p for p, _ in reversed(look.tried)), named)
    rule = next((r for _, r in reversed(look.tried)), "path")
    story = [_need(looking, fact).partition(", and the search")[0]] if not fact.called else []
    story.append(
        f"the file that was taken for {fact.name} is {looking.shown(path)} (found by {rule}), and ld.so refuses it: {text}"
    )
    story += _wrong_kind(NoFileStory(looking, fact).places()) if "/" not in fact.name else []
    what = what_is(looking.files, path)
    if what or looking.judge(path).text.endswith("directory"):
        story.append(f"it is {what or 'a directory'}")
    cures = []
    directory = os.path.dirname(path)
    for place in NoFileStory(looking, fact).places() if "/" not in fact.name else ():
        good = next((one.path for one in place.tried if one.outcome == "would-do"), "")
        if good and os.path.dirname(looking.absolute(good)) != looking.absolute(directory):
            cures.append(
                Cure(
                    "remove",
                    looking.shown(path),
                    f"{looking.shown(path)} not there: the search would go on",
                    looking.shown(good),
                    trial=Trial(without=(looking.absolute(path),)),
                )
            )
            break
    for name in _scripts(what):
        if looking.would_do(name, fact.loader):
            trial = Trial(file=name) if fact.called else None
            cures.append(
                Cure("other-file", name, f"open {name}, which that script leads to", name, trial=trial)
            )
            break
    if "position-independent executable" in text or "dynamically load executable" in text:
        story.append(
            "a program cannot be opened: build the part that is wanted as a shared object (-shared -fPIC)"
        )
    if "OS ABI" in text or "ABI version" in text:
        story.append(_os_abi(looking, path))
    if "cannot be dlopen()ed" in text:
        story.append("it is marked DF_1_NOOPEN (-z nodlopen): it can only be needed")
        cures.append(
            Cure(
                "preload",
                path,
                f"LD_PRELOAD={looking.shown(path)}, or link the program with it",
                "it is loaded at start-up",
                trial=looking.preloading(looking.absolute(path)),
            )
        )
    return ToldOpen("bad-file", path, "", loader, tuple(story), (), (), tuple(cures))


def _os_abi(looking: Looking, path: str) -> str:
    """Return for which system a file says that it is (EI_OSABI). Source: gABI, "ELF Identification"; glibc
    elf/dl-load.c:open_verify.
    """
    abi, version = looking.files.look_at(path).pread(_IDENTIFIES, _EI_OSABI)
    known = _OS_ABIS.get(abi, f"system number {abi}")
    return (
        f"its header says that it is for {known}, ABI version {version} (EI_OSABI): here only 0 (System V) and 3 (GNU/Linux) will do; it was built for"
        " another system, or a tool has written that byte (elfedit --output-osabi Linux writes it again)"
    )


def _scripts(what: str) -> list[str]:
    if "linker script" not in what or "leads to" not in what:
        return []
    words = what.partition("leads to ")[2].replace(",", " ").split()
    return [word for word in words if ".so" in word]


def _of_words(looking: Looking, error: EmuError | None, failing: Failing | None) -> ToldOpen:
    """An error without facts: what its words mean."""
    text = str(error) if error is not None else ""
    name = getattr(error, "object_name", "") or (failing.file if failing is not None else "")
    map_ = failing.map if failing is not None else None
    if _STACK in text:
        return _stack(looking, name)
    if any(word in text for word in _MEMORY):
        return _memory(looking, name)
    if "invalid mode for dlopen" in text:
        story = ["the mode has neither RTLD_LAZY nor RTLD_NOW: exactly one of them must be in it"]
        return ToldOpen(
            "mode",
            name,
            "",
            None,
            tuple(story),
            (),
            (),
            (Cure("mode", name, "RTLD_NOW or RTLD_LAZY in the mode", "it is opened", False),),
        )
    if "DT_RELR without" in text:
        story = [
            f"{base(name)} has relative relocations in the compact form (-z pack-relative-relocs), and no need for the version GLIBC_ABI_DT_RELR of libc,"
            " which a linker must add for ld.so to accept them"
        ]
        cures = (
            Cure(
                "relink", name, "link it with binutils 2.38, lld 15, mold 1.2 or newer", "it is loaded", False
            ),
            Cure("no-relr", name, "link it with -z nopack-relative-relocs", "it is loaded", False),
        )
        return ToldOpen("no-version", name, "GLIBC_ABI_DT_RELR", map_, tuple(story), cures=cures)
    if "namespace" in text:
        full = "no more" in text
        story = (
            ["16 namespaces exist, and each has objects: dlclose what is not used any more"]
            if full
            else ["no namespace has that number"]
        )
        return ToldOpen("namespace", name, "", None, tuple(story))
    return ToldOpen(
        "other",
        name,
        "",
        map_,
        (f"ld.so says: {text}",) if text else ("the error was made by code of the guest",),
    )


def _memory(looking: Looking, path: str) -> ToldOpen:
    object_, limit = read_object(looking.files, path), looking.process.config.max_memory
    takes = (
        f"it takes {object_.extent} bytes of address space"
        if object_ is not None
        else "its segments could not be mapped"
    )
    story = [f"there was no room for {base(path)}: {takes}"]
    story.append(
        f"the process may have {limit} bytes (--max-memory)"
        if limit
        else "the process has reached the limit of its memory"
    )
    trial = Trial(unlimited=True) if limit else None
    cure = Cure(
        "memory", path, "a higher limit (ulimit -v; here --max-memory)", "there is room", bool(limit), trial
    )
    return ToldOpen("out-of-memory", path, "", None, tuple(story), (), (), (cure,))


def _stack(looking: Looking, path: str) -> ToldOpen:
    object_ = read_object(looking.files, path)
    header = object_.segment(c.PT_GNU_STACK) if object_ is not None else None
    why = (
        "its PT_GNU_STACK asks for one (PF_X)"
        if header is not None
        else "it has no PT_GNU_STACK, which counts as a wish for one"
    )
    name = base(path)
    story = (
        f"{name} asks for an executable stack: {why}; an open cannot make the stacks of a process executable (since glibc 2.41)",
        "most often an assembly source of it has no .note.GNU-stack section; code that is built on the stack (nested functions) is the other reason",
    )
    cures = (
        Cure(
            "no-exec-stack", path, f"link {name} with -z noexecstack, or patchelf --clear-execstack, if it does not need one", "it is opened",
            trial=Trial(edits=((looking.absolute(path), Edit(plain_stack=True)),)),
        ),
        Cure("note", path, 'add .section .note.GNU-stack,"",@progbits to its assembly sources', "it is opened", False),
        Cure("preload", path, f"LD_PRELOAD={looking.shown(path)}, or link the program with it",
            "the stack is made executable at start-up", trial=looking.preloading(looking.absolute(path))),
    )  # fmt: skip
    return ToldOpen("executable-stack", path, "", None, story, (), (), cures)
