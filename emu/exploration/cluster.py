"""A dask.distributed cluster as the executor of a search: `dask://HOST:PORT` is its scheduler.

The workers need this emu, the program and its libraries at the same paths, and the same glibc. Dask gives the
work of a worker that dies to another.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

from emu.core.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Callable

_SCHEME = "dask://"
_PATIENCE = "10s"
"""How long the scheduler may take to answer."""


class ClusterError(EmuError):
    """There is no cluster there."""


class Cluster(Executor):
    """The workers of one scheduler. Raises ClusterError."""

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise ClusterError(
                f"{address}: dask.distributed is not installed: pip install 'emu-ldso[cluster]'"
            ) from None
        client: Any = distributed.Client  # untyped
        try:
            self._client: Any = client(f"tcp://{address.removeprefix(_SCHEME)}", timeout=_PATIENCE)
        except (OSError, ValueError) as error:
            raise ClusterError(f"{address}: no dask scheduler answers: {error}") from None
        self._executor = self._client.get_executor(pure=False)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`."""
        future: Future[Any] = self._executor.submit(function, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`."""
        self._executor.shutdown(wait=wait)
        self._client.close()


def is_address(text: str) -> bool:
    """Whether a text names a scheduler: dask://HOST:PORT."""
    host, colon, port = text.removeprefix(_SCHEME).rpartition(":")
    return text.startswith(_SCHEME) and bool(host and colon) and port.isdecimal() and int(port) < 1 << 16
