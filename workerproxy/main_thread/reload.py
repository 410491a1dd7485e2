"""A new configuration on its way to the workers: load, bind, Prepare on all, then Commit on all or Abort on all.

Until every worker has said Prepared nothing has changed; one address that cannot be bound or one Refused, and nothing
ever does. The decision is the moment the version becomes the active one: a worker that dies before or after it, or does
not answer the Commit, is replaced, and its successor is given the active version. The first configuration of a process
takes the same way. A dry run goes as far as Prepared, and aborts.

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
from workerproxy.main_thread.listener_manager import ACTIVE
from workerproxy.main_thread.listener_sockets import ListenError
from workerproxy.main_thread.live_change import compare
from workerproxy.main_thread.worker_slot import (
    WorkerError,
    WorkerRefusedError,
    WorkerSlot,
    WorkerTimeoutError,
)

if TYPE_CHECKING:
    from workerproxy.main_thread.admin.sockets import AdminSockets
    from workerproxy.main_thread.dns import DnsClusters
    from workerproxy.main_thread.listener_drain import ListenerDrain
    from workerproxy.main_thread.listener_manager import ListenerManager, ListenerPlan
    from workerproxy.main_thread.supervisor import Supervisor

_log = logging.getLogger("workerproxy.config")

ABORT_TIMEOUT_S: Final = 5.0
SAME: Final = "nothing changed but, maybe, what stands in the files it names"

# States.
IDLE: Final = "idle"
LOADING: Final = "loading"  # read and checked; new addresses are bound
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
        PREPARING: {"all prepared": COMMITTING, "one refused": ABORTING, "dry run": ABORTING},
        COMMITTING: {"done": IDLE},
        ABORTING: {"done": IDLE},
    }
)


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What became of it. ``version`` is the active one's number, ``errors`` why a new one is not it.

    ``changes``: a line for each difference; ``drains``: for what finishes within the drain time because of them.
    """

    ok: bool
    version: int
    changes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    drains: list[str] = field(default_factory=list)
    dry_run: bool = False


class _NotPossibleError(Exception):
    """An address or a number that the configuration needs cannot be had."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(*errors)
        self.errors = errors


class Reload:
    """One at a time; asks that come while one runs are answered together by one more."""

    def __init__(
        self,
        load: Callable[[], Any],
        before_load: Callable[[], None],
        configuration: Configuration,
        supervisor: Supervisor,
        dns: DnsClusters,
        listeners: ListenerManager,
        listener_drain: ListenerDrain,
        admin: AdminSockets,
        on_active: Callable[[ConfigVersion, ConfigVersion | None, ListenerPlan], None],
        lock: asyncio.Lock,
    ) -> None:
        """``load()`` returns a bootstrap or raises ``ConfigErrors``; it runs in a thread, ``before_load()`` before it.

        ``on_active(new, old, plan)`` at the decision. ``lock``: held while one runs, and by whatever must not meet one.
        """
        self._load = load
        self._before_load = before_load
        self._configuration = configuration
        self._supervisor = supervisor
        self._dns = dns
        self._listeners = listeners
        self._listener_drain = listener_drain
        self._admin = admin
        self._on_active = on_active
        self._lock = lock
        self._next: asyncio.Task[ReloadResult] | None = None
        self.state = IDLE

    def __repr__(self) -> str:
        return f"<Reload {self.state} {self._configuration!r}>"

    def _move(self, event: str) -> None:
        self.state = TRANSITIONS[self.state][event]
        _log.debug("reload: %s -> %s", event, self.state)

    async def reload(self, *, dry_run: bool = False) -> ReloadResult:
        """Load the configuration again and apply it. Never raises: the result says what happened."""
        if dry_run:
            return await self._in_turn(dry_run=True)
        if self._next is None:
            self._next = asyncio.ensure_future(self._in_turn())
        return await asyncio.shield(self._next)

    async def _in_turn(self, *, dry_run: bool = False) -> ReloadResult:
        async with self._lock:
            if not dry_run:
                self._next = None  # what is asked from now on has to look at the files again
            self._move("asked")
            bootstrap = None
            try:
                if not dry_run:
                    self._before_load()
                bootstrap = await asyncio.to_thread(self._load)
                return await self._apply(bootstrap, dry_run=dry_run)
            except ConfigErrors as errors:
                return self._invalid([str(error) for error in errors.errors], None, dry_run=dry_run)
            except Exception as error:
                _log.exception("reload failed in state %s", self.state)
                self.state = IDLE
                why = f"internal error: {type(error).__name__}: {error}"
                return self._refused([why], bootstrap, 0, dry_run=dry_run)

    async def apply_first(self, bootstrap: Any, plan: ListenerPlan) -> ReloadResult:
        """The configuration the process was started with; its listeners are bound already."""
        async with self._lock:
            self._move("asked")
            return await self._apply(bootstrap, plan=plan)

    async def _apply(self, bootstrap: Any, *, plan: ListenerPlan | None = None, dry_run: bool = False) -> ReloadResult:
        old = self._configuration.active
        changes = [] if old is None else compare(old.bootstrap, bootstrap)
        try:
            plan, config = self._bind(bootstrap, plan, dry_run=dry_run)
        except _NotPossibleError as error:
            return self._invalid(error.errors, bootstrap, dry_run=dry_run)
        self._move("valid")
        try:
            await self._dns.prepare(config.clusters)
            self._move("resolved")
            if not dry_run:
                self._supervisor.share_out()
            errors, drains = await self._in_all_workers(config, old, plan, dry_run=dry_run)
        finally:
            if self._configuration.active is not config:
                self._undo(plan)
        if errors:
            return self._refused(errors, bootstrap, config.version, dry_run=dry_run)
        if dry_run:
            _log.info("dry run: the configuration can be served: %s", "; ".join(changes) or SAME)
            return self._dry(changes, plan)
        self._supervisor.catch_up()
        if old is not None:
            _log.info("version %d is active: %s", config.version, "; ".join(changes) or SAME)
        return ReloadResult(True, config.version, changes, drains=drains)

    def _bind(self, bootstrap: Any, plan: ListenerPlan | None, *, dry_run: bool) -> tuple[ListenerPlan, ConfigVersion]:
        """Have every address it needs; ``plan``: of a process that starts, which has them already.

        Raises ``_NotPossibleError`` with everything that cannot be had; then nothing of it is left open.
        """
        if any(listener.state != ACTIVE for listener in self._listeners.active.values()):
            raise _NotPossibleError(["listeners are stopped or draining; nothing new can be served"])
        errors: list[str] = []
        starting = plan is not None
        try:
            plan = plan or self._listeners.plan(bootstrap.static_resources.listeners, trial=dry_run)
        except ListenError as error:
            errors += str(error).splitlines()
        try:
            if not starting:
                self._admin.plan(bootstrap)
        except ListenError as error:
            errors += str(error).splitlines()
        try:
            if plan is not None and not errors:
                return plan, self._configuration.new_version(bootstrap, plan.binds)
        except ValueError as error:
            errors.append(str(error))
        self._undo(plan)
        raise _NotPossibleError(errors)

    async def _in_all_workers(
        self, config: ConfigVersion, old: ConfigVersion | None, plan: ListenerPlan, *, dry_run: bool
    ) -> tuple[list[str], list[str]]:
        """Prepare, then Commit or Abort: why it is refused, and what drains when it is not."""
        slots = [slot for slot in self._supervisor.slots if slot.pid and not slot.lock.locked()]
        for slot in slots:
            await slot.lock.acquire()
        try:
            errors = await self._prepare(slots, config, first=old is None)
            if self._supervisor.stopping:
                errors.append("the process is stopping")
            if errors or dry_run:
                await self._abort(slots, config, dry_run=not errors)
                return errors, []
            drains = await self._commit(slots, config, old, plan)
            self._move("done")
            return [], drains
        finally:
            for slot in slots:
                slot.lock.release()

    def _dry(self, changes: list[str], plan: ListenerPlan) -> ReloadResult:
        active = self._configuration.active
        drains = [f"listener {one.name!r} on {', '.join(one.addresses)} would drain" for one in plan.removed]
        return ReloadResult(True, active.version if active else 0, changes, drains=drains, dry_run=True)

    def _undo(self, plan: ListenerPlan | None) -> None:
        """The configuration is not going to be served: close what was opened for it."""
        self._admin.discard()
        if plan is not None and plan.opened:
            self._supervisor.release_binds([bind.bind_id for bind in plan.opened])
        if plan is not None:
            self._listeners.discard(plan)

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

    async def _commit(
        self, slots: list[WorkerSlot], config: ConfigVersion, old: ConfigVersion | None, plan: ListenerPlan
    ) -> list[str]:
        """The decision, and telling everyone. Returns what drains because of it."""
        self._move("all prepared")
        self._configuration.active = config
        self._dns.adopt()
        self._listeners.refuse_new(plan.gone)
        self._listeners.adopt(plan)
        self._admin.adopt()
        self._on_active(config, old, plan)
        # Not one that died after it had prepared and has a successor already: that one is brought up to date anyway.
        slots = [slot for slot in slots if slot.prepared == config.version]
        answers = await asyncio.gather(*(slot.commit(config) for slot in slots), return_exceptions=True)
        connections = streams = 0
        for slot, answer in zip(slots, answers, strict=True):
            if isinstance(answer, m.Committed):
                connections += answer.connections
                streams += answer.streams
            elif isinstance(answer, WorkerTimeoutError):
                _log.error("%s; it is replaced", answer)
                slot.kill()
            elif not isinstance(answer, WorkerError):
                raise answer
        self._supervisor.share_out()
        self._listener_drain.removed(plan)
        return self._listener_drain.describe(plan, connections, streams)

    async def _abort(self, slots: list[WorkerSlot], config: ConfigVersion, *, dry_run: bool) -> None:
        self._move("dry run" if dry_run else "one refused")
        self._dns.discard()
        await self._supervisor.ask_each([slot for slot in slots if slot.pid], m.Abort(config.version), ABORT_TIMEOUT_S)
        self._move("done")

    def _invalid(self, errors: list[str], bootstrap: Any, *, dry_run: bool = False) -> ReloadResult:
        self._move("invalid")
        return self._refused(errors, bootstrap, 0, dry_run=dry_run)

    def _refused(self, errors: list[str], bootstrap: Any, version: int, *, dry_run: bool = False) -> ReloadResult:
        active = self._configuration.active
        number = active.version if active else 0
        if active is not None:
            what = "dry run" if dry_run else "reload"
            _log.error("%s refused, version %d stays active:\n%s", what, number, "\n".join(errors))
        if not dry_run:
            self._configuration.last_refused = RefusedConfig(time.time(), "\n".join(errors), version, bootstrap)
        return ReloadResult(False, number, errors=errors, dry_run=dry_run)


def _without_repetition(errors: list[str]) -> list[str]:
    """All workers refuse for the same reason, as a rule: say it once."""
    return list(dict.fromkeys(error.partition(": ")[2] or error for error in errors))
