"""`--engine auto`: Unicorn, but for a program that needs what Unicorn's CPU has not.

Whether it does is known once its objects are mapped, before any of its code runs: so it is linked once for
that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.core.errors import CpuLevelError, EmuError
from emu.core.events import EventBus
from emu.machine.engines import VARIABLE, chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.process.config import RunConfig
    from emu.process.process import Process


def engine_for(
    config: RunConfig, make: Callable[[RunConfig, EventBus], Process], say: Callable[[str], None]
) -> str:
    """Return the engine of a run; `make` makes the process that is linked to find out, `say` tells the user.

    Raises EmuError.
    """
    engine = chosen(config.engine)
    if engine != "auto":
        return engine
    try:
        make(config._replace(engine="unicorn", policy=None), EventBus()).load()
    except CpuLevelError as error:
        from emu.machine.kvm.vm import why_not  # few runs come here

        missing = why_not()
        if missing:
            raise error.or_else(f"and KVM cannot be used: {missing}") from None
        say(
            f"emu: {config.program}: {error.where} needs {error.level}: on the host's CPU (--engine kvm; {VARIABLE}=unicorn never does that)\n"
        )
        return "kvm"
    except EmuError:
        return "unicorn"  # which says what is wrong, once more
    return "unicorn"
