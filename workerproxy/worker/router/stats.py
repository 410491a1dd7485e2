"""Statistics of the router filter (``http.<stat_prefix>.``)."""

from __future__ import annotations

from workerproxy.control.stats import Counter, StatsGroup


class RouterStats(StatsGroup):
    no_route: Counter
    no_cluster: Counter
    rq_redirect: Counter
    rq_direct_response: Counter
    rq_total: Counter
    rq_reset_after_downstream_response_started: Counter
