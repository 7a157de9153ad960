"""What is told of an open that failed, as data.

`code` and `outcome` fields are for programs and stay; texts are for people and may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emu.analysis.answer import Explanation
from emu.analysis.data import Proposal
from emu.analysis.frames import CallFrame
from emu.analysis.stamp import Stamp
from emu.elf.edit import Edit


@dataclass(frozen=True, slots=True)
class Tried:
    """A file that was tried, or is there and was not: `outcome` is taken, would-do, absent, no-directory,
    wrong-class, wrong-machine, other-kernel, denied or bad.

    `text` says it to people; empty for one that is simply absent.
    """

    path: str
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class SearchedPlace:
    """A rule by which files are found.

    `rule`: path, rpath, library-path, runpath, cache, default, or directory (no rule leads there).

    `searched` tells whether the search came there; `text` names it, `value` is what it says (directories as
    they are written), `note` why it was not searched, or what was wrong.
    """

    rule: str
    searched: bool
    text: str
    value: str
    note: str
    tried: tuple[Tried, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A change as another run of the program can make it.

    - `env`: variables that are set; `unset`: those that are not there
    - `edits`: objects that are linked otherwise, by their absolute paths; `without`: files that are not there
    - `file`: what is opened in place of what was asked for; `set_flags`, `clear_flags`: bits of the open's
      mode
    - `first`: what the program opens right before, with RTLD_NOW and RTLD_GLOBAL
    - `base_namespace`: opened with dlopen in place of dlmopen
    - `unlimited`: without --max-memory
    - `without_ids`: a program that has no set-id bits
    """

    env: tuple[tuple[str, str], ...] = ()
    unset: tuple[str, ...] = ()
    edits: tuple[tuple[str, Edit], ...] = ()
    without: tuple[str, ...] = ()
    file: str = ""
    set_flags: int = 0
    clear_flags: int = 0
    first: str = ""
    base_namespace: bool = False
    unlimited: bool = False
    without_ids: bool = False


@dataclass(frozen=True, slots=True)
class Cure(Proposal):
    """A change that would help: `result` is what it leads to. `code` names the kind of change.

    `tried`: the linker's own rules were asked with the change made. Not so where it needs another build, or
    lies outside. `outcome` is what became of the whole open in another run with the change (`trial`): opens,
    starts (a program), binds (a call or a dlsym), next (it fails for another reason, which `then` tells),
    fails (for the same), or empty where no such run was made or it did not come to that open.
    """

    result: str
    tried: bool = True
    trial: Trial | None = field(default=None, metadata={"json": False})
    outcome: str = ""
    then: str = ""


@dataclass(frozen=True, slots=True)
class FailedOpen:
    """An open that failed, or a start-up that did.

    `number` tells which open of that file it was, from 1 on; 0 at start-up. `call`: dlopen, dlmopen,
    start-up, preload (`flags` is then where it was asked for; LD_AUDIT: an auditor), left (the open never
    returned: code that it ran ended the process), first-call (a function that was to be bound by its first
    call is nowhere: the process ends) or dlsym (`flags` is then the handle). `file` and `flags` are as they
    were asked for, `opener` the object that asked. `at` is null at start-up. `error` is ld.so's text.
    `cause`: no-file, bad-file, undefined-symbol, no-version, static-tls, executable-stack, out-of-memory,
    mode, namespace, ended, or other. `object` is what could not be used, `chain` how it came to be needed:
    the opened file first, each needing the next. `story` tells in sentences what happened; `places` where
    files were looked for; `look_ups` how a symbol was (as `emu explain` tells it); `cures` what would help.
    `names` are those that the open is known by.
    """

    call: str
    file: str
    flags: str
    namespace: int
    opener: str
    at: Stamp | None
    error: str
    cause: str
    object: str
    symbol: str
    chain: tuple[str, ...]
    story: tuple[str, ...]
    places: tuple[SearchedPlace, ...]
    look_ups: tuple[Explanation, ...]
    cures: tuple[Cure, ...]
    backtrace: tuple[CallFrame, ...]
    names: tuple[str, ...]
    number: int = 0
