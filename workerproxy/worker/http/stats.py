"""Statistics of HTTP connection managers, with Envoy's names."""

from __future__ import annotations

from workerproxy.control.stats import Counter, Gauge, Histogram, StatsGroup


class ConnectionManagerStats(StatsGroup):
    """``http.<stat_prefix>.``: one for all listeners of that prefix."""

    downstream_cx_total: Counter
    downstream_cx_http1_total: Counter
    downstream_cx_active: Gauge
    downstream_cx_http1_active: Gauge
    downstream_cx_destroy: Counter
    downstream_cx_destroy_remote: Counter
    downstream_cx_destroy_local: Counter
    downstream_cx_destroy_active_rq: Counter
    downstream_cx_destroy_local_active_rq: Counter
    downstream_cx_destroy_remote_active_rq: Counter
    downstream_cx_protocol_error: Counter
    downstream_cx_rx_bytes_total: Counter
    downstream_cx_tx_bytes_total: Counter
    downstream_cx_drain_close: Counter
    downstream_cx_idle_timeout: Counter
    downstream_cx_max_duration_reached: Counter
    downstream_cx_max_requests_reached: Counter
    downstream_cx_delayed_close_timeout: Counter
    downstream_flow_control_paused_reading_total: Counter
    downstream_flow_control_resumed_reading_total: Counter
    downstream_rq_total: Counter
    downstream_rq_http1_total: Counter
    downstream_rq_active: Gauge
    downstream_rq_response_before_rq_complete: Counter
    downstream_rq_rx_reset: Counter
    downstream_rq_tx_reset: Counter
    downstream_rq_non_relative_path: Counter
    downstream_rq_too_large: Counter
    downstream_rq_completed: Counter
    downstream_rq_failed_path_normalization: Counter
    downstream_rq_redirected_with_normalized_path: Counter
    downstream_rq_1xx: Counter
    downstream_rq_2xx: Counter
    downstream_rq_3xx: Counter
    downstream_rq_4xx: Counter
    downstream_rq_5xx: Counter
    downstream_rq_ws_on_non_ws_route: Counter
    downstream_rq_idle_timeout: Counter
    downstream_rq_max_duration_reached: Counter
    downstream_rq_timeout: Counter
    downstream_rq_header_timeout: Counter
    downstream_rq_rejected_via_ip_detection: Counter
    rs_too_large: Counter
    downstream_cx_length_ms: Histogram
    downstream_rq_time: Histogram


class ListenerHttpStats(StatsGroup):
    """``listener.<address>.http.<stat_prefix>.``"""

    downstream_rq_completed: Counter
    downstream_rq_1xx: Counter
    downstream_rq_2xx: Counter
    downstream_rq_3xx: Counter
    downstream_rq_4xx: Counter
    downstream_rq_5xx: Counter


class ListenerStats(StatsGroup):
    """``listener.<address>.``"""

    downstream_cx_total: Counter
    downstream_cx_destroy: Counter
    downstream_cx_active: Gauge
    downstream_cx_overflow: Counter
    downstream_global_cx_overflow: Counter
    no_filter_chain_match: Counter
    downstream_cx_length_ms: Histogram


class WorkerListenerStats(StatsGroup):
    """``listener.<address>.worker_<i>.``: shows how connections are spread over workers."""

    downstream_cx_total: Counter
    downstream_cx_active: Gauge
