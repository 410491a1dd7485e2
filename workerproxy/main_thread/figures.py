"""What the main process counts of itself: ``server.`` and ``listener_manager.``; and all statistics of this moment."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from workerproxy.control import messages as m
from workerproxy.control.names import listener_name
from workerproxy.main_thread.listener_manager import ACTIVE
from workerproxy.main_thread.machine import memory_of
from workerproxy.main_thread.server_state import ServerState
from workerproxy.main_thread.stats import ListenerManagerStats, ServerStats
from workerproxy.main_thread.version import version_parts

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import StatValues
    from workerproxy.main_thread.configuration import ConfigVersion
    from workerproxy.main_thread.listener_manager import ListenerPlan
    from workerproxy.main_thread.server import Server

FLUSH_TIMEOUT_S: Final = 0.1  # for workers, before their statistics are read anyway
_NO_CERTIFICATE: Final = 2**32 - 1  # days until it expires


class Figures:
    """Of one ``Server``."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.server = server.store.own.group("server", ServerStats)
        self._listeners = server.store.own.group("listener_manager", ListenerManagerStats)

    def initialized(self) -> None:
        """All workers serve."""
        self.server.initialization_time_ms.record(int((time.monotonic() - self._server.started_at) * 1000))
        self._listeners.workers_started = 1

    def activated(self, new: ConfigVersion, old: ConfigVersion | None, plan: ListenerPlan) -> None:
        """A configuration became active."""
        before = {listener_name(one): one for one in (old.listeners if old is not None else ())}
        after = {listener_name(one): one for one in new.listeners}
        added = len(after.keys() - before.keys())
        changed = sum(before[name] != after[name] for name in before.keys() & after.keys())
        stats = self._listeners
        stats.listener_added += added
        stats.listener_create_success += added * len(self._server.supervisor.slots)
        stats.listener_removed += len(before.keys() - after.keys())
        stats.listener_modified += changed
        # Those that were moved are other listeners now.
        stats.listener_in_place_updated += changed - sum(one.name in after for one in plan.removed)

    def drain_begins(self) -> None:
        self._listeners.listener_stopped += len(self._server.listeners.active)

    async def current(self) -> StatValues:
        """Every statistic, as new as the workers can make it in a tenth of a second."""
        server, supervisor, stats = self._server, self._server.supervisor, self.server
        await supervisor.ask_each(supervisor.running(), m.FlushStats(), FLUSH_TIMEOUT_S)
        memory = memory_of([os.getpid(), *(slot.pid for slot in supervisor.running())])
        stats.live = int(server.state == ServerState.LIVE)
        stats.state = server.state
        stats.uptime = int(time.monotonic() - server.started_at)
        stats.concurrency = len(supervisor.slots)
        stats.parent_connections = server.predecessor.connections if server.predecessor else 0
        stats.total_connections = supervisor.connections() + stats.parent_connections
        stats.memory_allocated, stats.memory_heap_size, stats.memory_physical_size = memory
        stats.hot_restart_epoch = server.epoch
        major, minor, patch = version_parts()
        stats.version = major * 10_000 + minor * 100 + patch
        stats.days_until_first_cert_expiring = _NO_CERTIFICATE
        self._listeners.total_listeners_active = sum(one.state == ACTIVE for one in server.listeners.active.values())
        self._listeners.total_listeners_draining = len(server.listeners.draining)
        return server.store.merged()
