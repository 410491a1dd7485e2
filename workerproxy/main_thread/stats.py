"""What the main process counts itself, with Envoy's names. Everything else is counted by workers."""

from __future__ import annotations

from workerproxy.control.stats import Counter, Gauge, Histogram, StatsGroup


class ServerStats(StatsGroup):
    """``server.``; ``worker_restarts`` is workerproxy's own."""

    live: Gauge  # 1 while not draining
    state: Gauge  # as in envoy.admin.v3.ServerInfo.State
    uptime: Gauge  # seconds
    concurrency: Gauge
    total_connections: Gauge  # downstream, over all workers
    parent_connections: Gauge
    memory_allocated: Gauge  # bytes, main process and workers; what is theirs alone
    memory_heap_size: Gauge
    memory_physical_size: Gauge
    version: Gauge
    hot_restart_epoch: Gauge
    days_until_first_cert_expiring: Gauge
    worker_restarts: Counter
    initialization_time_ms: Histogram


class ListenerManagerStats(StatsGroup):
    """``listener_manager.``"""

    listener_added: Counter
    listener_modified: Counter
    listener_removed: Counter
    listener_stopped: Counter
    listener_create_success: Counter
    listener_create_failure: Counter
    listener_in_place_updated: Counter
    total_filter_chains_draining: Gauge
    total_listeners_warming: Gauge
    total_listeners_active: Gauge
    total_listeners_draining: Gauge
    workers_started: Gauge


class ClusterManagerStats(StatsGroup):
    """``cluster_manager.``"""

    cluster_added: Counter
    cluster_modified: Counter
    cluster_removed: Counter
    cluster_updated: Counter
    active_clusters: Gauge
    warming_clusters: Gauge


class MembershipStats(StatsGroup):
    """``cluster.<name>.``, the part that is known once and not per worker."""

    membership_change: Counter
    membership_healthy: Gauge
    membership_degraded: Gauge
    membership_excluded: Gauge
    membership_total: Gauge
    update_attempt: Counter
    update_success: Counter
    update_failure: Counter
    update_empty: Counter
    update_no_rebuild: Counter
    version: Gauge
    warming_state: Gauge


class CircuitBreakerStats(StatsGroup):
    """``cluster.<name>.circuit_breakers.<priority>.``: 1 while the breaker is open."""

    cx_open: Gauge
    cx_pool_open: Gauge
    rq_pending_open: Gauge
    rq_open: Gauge
    rq_retry_open: Gauge


class RemainingStats(StatsGroup):
    """The same prefix, with ``track_remaining``."""

    remaining_cx: Gauge
    remaining_pending: Gauge
    remaining_rq: Gauge
    remaining_retries: Gauge


class WatchdogStats(StatsGroup):
    """``server.main_thread.`` and ``workers.``: how often one was later than ``miss_timeout``, ``megamiss_timeout``."""

    watchdog_miss: Counter
    watchdog_mega_miss: Counter


class WorkerStats(StatsGroup):
    """``server.worker_<i>.``: the same of one worker, and (workerproxy's own) how late its event loop is."""

    watchdog_miss: Counter
    watchdog_mega_miss: Counter
    loop_lag_ms: Gauge  # the longest since the last heartbeat; while it does not answer: since when
    loop_delay_ms: Histogram  # the same, one sample a heartbeat
