"""What each signal does. One table, read by the server and by the manual (``docs/life_of_a_reload.md``)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol


class Signalled(Protocol):
    """What the server can be told by signal."""

    def drain_and_stop(self) -> None: ...

    def reload(self) -> None: ...

    def reopen_logs(self) -> None: ...

    def upgrade(self) -> None: ...

    def one_worker_more(self) -> None: ...

    def one_worker_less(self) -> None: ...


ACTIONS: Final[Mapping[signal.Signals, str]] = MappingProxyType(
    {
        signal.SIGTERM: "drain_and_stop",  # a second one stops at once
        signal.SIGINT: "drain_and_stop",
        signal.SIGQUIT: "drain_and_stop",
        signal.SIGHUP: "reload",  # Envoy ignores it
        signal.SIGUSR1: "reopen_logs",
        signal.SIGUSR2: "upgrade",
        signal.SIGTTIN: "one_worker_more",
        signal.SIGTTOU: "one_worker_less",
    }
)


def install(loop: asyncio.AbstractEventLoop, target: Signalled) -> None:
    """Let the loop call the target's methods; a signal is never handled in the middle of something else."""
    for number, method in ACTIONS.items():
        loop.add_signal_handler(number, getattr(target, method))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ACTIONS)  # a predecessor starts its successor with some of them blocked


def remove(loop: asyncio.AbstractEventLoop) -> None:
    for number in ACTIONS:
        loop.remove_signal_handler(number)
