"""A new configuration on its way to the workers: load, Prepare on all, then Commit on all or Abort on all.

Until every worker has said Prepared nothing has changed; one Refused, and nothing ever does. The decision is the moment
the version becomes the active one: a worker that dies before or after it, or does not answer the Commit, is replaced,
and its successor is given the active version. The first configuration of a process takes the same way.

Diagnostics: one log line with the version and what changed, or with every reason; ``last_refused`` for /config_dump.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from workerproxy.config.errors import ConfigErrors
from workerproxy.control import messages as m
from workerproxy.main_thread.configuration import Configuration, ConfigVersion, RefusedConfig
from workerproxy.main_thread.live_change import compare
from workerproxy.main_thread.worker_slot import (
    DRAINING,
    WorkerError,
    WorkerRefusedError,
    WorkerSlot,
    WorkerTimeoutError,
)

if TYPE_CHECKING:
    from workerproxy.main_thread.dns import DnsClusters
    from workerproxy.main_thread.supervisor import Supervisor

_log = logging.getLogger("workerproxy.config")

ABORT_TIMEOUT_S: Final = 5.0

# States.
IDLE: Final = "idle"
LOADING: Final = "loading"  # read and checked, by the loader and against what can change live
RESOLVING: Final = "resolving"  # names of new clusters
PREPARING: Final = "preparing"  # every worker builds it
COMMITTING: Final = "committing"  # decided: it is the active one
ABORTING: Final = "aborting"  # decided: it never will be

# State -> event -> state that follows.
TRANSITIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        IDLE: {"asked": LOADING},
        LOADING: {"valid": RESOLVING, "invalid": IDLE},
        RESOLVING: {"resolved": PREPARING},
        PREPARING: {"all prepared": COMMITTING, "one refused": ABORTING},
        COMMITTING: {"done": IDLE},
        ABORTING: {"done": IDLE},
    }
)


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What became of it. ``version`` is the active one's number, ``errors`` why a new one is not it."""

    ok: bool
    version: int
    changes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Reload:
    """One at a time; asks that come while one runs are answered together by one more."""

    def __init__(
        self,
        load: Callable[[], Any],
        configuration: Configuration,
        supervisor: Supervisor,
        dns: DnsClusters,
        on_active: Callable[[ConfigVersion, ConfigVersion | None], None],
    ) -> None:
        """``load()`` returns a bootstrap or raises ``ConfigErrors``; it runs in a thread. ``on_active(new, old)``."""
        self._load = load
        self._configuration = configuration
        self._supervisor = supervisor
        self._dns = dns
        self._on_active = on_active
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[ReloadResult] | None = None
        self.state = IDLE

    def __repr__(self) -> str:
        return f"<Reload {self.state} {self._configuration!r}>"

    def _move(self, event: str) -> None:
        self.state = TRANSITIONS[self.state][event]
        _log.debug("reload: %s -> %s", event, self.state)

    async def reload(self) -> ReloadResult:
        """Load the configuration again and apply it. Never raises: the result says what happened."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._in_turn())
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> ReloadResult:
        async with self._lock:
            self._next = None  # what is asked from now on has to look at the files again
            self._move("asked")
            try:
                bootstrap = await asyncio.to_thread(self._load)
            except ConfigErrors as errors:
                return self._invalid([str(error) for error in errors.errors], None)
            except Exception as error:
                _log.exception("loading the configuration failed")
                return self._invalid([f"internal error: {type(error).__name__}: {error}"], None)
            try:
                return await self._apply(bootstrap)
            except Exception as error:
                _log.exception("reload failed in state %s", self.state)
                self.state = IDLE
                return self._refused([f"internal error: {type(error).__name__}: {error}"], bootstrap, 0)

    async def apply_first(self, bootstrap: Any) -> ReloadResult:
        """The configuration the process was started with."""
        async with self._lock:
            self._move("asked")
            return await self._apply(bootstrap)

    async def _apply(self, bootstrap: Any) -> ReloadResult:
        old = self._configuration.active
        changes: list[str] = []
        if any(slot.state == DRAINING for slot in self._supervisor.slots):
            return self._invalid(["listeners are stopped or draining; nothing new can be served"], bootstrap)
        if old is not None:
            difference = compare(old.bootstrap, bootstrap)
            if difference.refused:
                return self._invalid(difference.refused, bootstrap)
            changes = difference.changes
        try:
            config = self._configuration.new_version(bootstrap)
        except ValueError as error:
            return self._invalid([str(error)], bootstrap)
        self._move("valid")
        await self._dns.prepare(config.clusters)
        self._move("resolved")
        slots = [slot for slot in self._supervisor.running() if not slot.lock.locked()]
        for slot in slots:
            await slot.lock.acquire()
        try:
            errors = await self._prepare(slots, config, first=old is None)
            if errors:
                return await self._abort(slots, config, errors)
            await self._commit(slots, config, old)
        finally:
            for slot in slots:
                slot.lock.release()
        self._supervisor.catch_up()
        self._move("done")
        if old is not None:
            _log.info("version %d is active: %s", config.version, "; ".join(changes) or "nothing changed")
        return ReloadResult(True, config.version, changes)

    async def _prepare(self, slots: list[WorkerSlot], config: ConfigVersion, *, first: bool) -> list[str]:
        """Why it cannot become active; empty when it can. A worker that has died has no say, unless it is the first."""
        asked = [slot.pid for slot in slots]  # a successor may be there before the answers are
        answers = await asyncio.gather(*(slot.prepare(config) for slot in slots), return_exceptions=True)
        errors: list[str] = []
        for slot, pid, answer in zip(slots, asked, answers, strict=True):
            alive = slot.pid != 0 and slot.pid == pid
            if isinstance(answer, WorkerRefusedError) or (isinstance(answer, WorkerError) and (alive or first)):
                errors.append(str(answer))
            elif answer is not None and not isinstance(answer, WorkerError):
                raise answer
        return _without_repetition(errors)

    async def _commit(self, slots: list[WorkerSlot], config: ConfigVersion, old: ConfigVersion | None) -> None:
        self._move("all prepared")
        self._configuration.active = config
        self._dns.adopt()
        self._on_active(config, old)
        answers = await asyncio.gather(*(slot.commit(config) for slot in slots), return_exceptions=True)
        for slot, answer in zip(slots, answers, strict=True):
            if isinstance(answer, WorkerTimeoutError):
                _log.error("%s; it is replaced", answer)
                slot.kill()
            elif answer is not None and not isinstance(answer, WorkerError):
                raise answer

    async def _abort(self, slots: list[WorkerSlot], config: ConfigVersion, errors: list[str]) -> ReloadResult:
        self._move("one refused")
        self._dns.discard()
        await self._supervisor.ask_each([slot for slot in slots if slot.pid], m.Abort(config.version), ABORT_TIMEOUT_S)
        result = self._refused(errors, config.bootstrap, config.version)
        self._move("done")
        return result

    def _invalid(self, errors: list[str], bootstrap: Any) -> ReloadResult:
        self._move("invalid")
        return self._refused(errors, bootstrap, 0)

    def _refused(self, errors: list[str], bootstrap: Any, version: int) -> ReloadResult:
        active = self._configuration.active
        number = active.version if active else 0
        if active is not None:
            _log.error("reload refused, version %d stays active:\n%s", number, "\n".join(errors))
        self._configuration.last_refused = RefusedConfig(time.time(), "\n".join(errors), version, bootstrap)
        return ReloadResult(False, number, errors=errors)


def _without_repetition(errors: list[str]) -> list[str]:
    """All workers refuse for the same reason, as a rule: say it once."""
    return list(dict.fromkeys(error.partition(": ")[2] or error for error in errors))
