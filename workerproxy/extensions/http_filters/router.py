"""Forwards the request to the route's cluster; the last filter of every chain. Envoy: ``envoy.filters.http.router``.

The filter itself is the worker's heart (``worker/router/router.py``); this file says what it is configured by, so that
it is found, validated and documented as any other filter.
"""

from __future__ import annotations

CONFIG_TYPE = "envoy.extensions.filters.http.router.v3.Router"
NAME = "envoy.filters.http.router"
TERMINAL = True
READS: dict[str, frozenset[str]] = {
    CONFIG_TYPE: frozenset(
        {"dynamic_stats", "suppress_envoy_headers", "strict_check_headers", "respect_expected_rq_timeout"}
    )
}
