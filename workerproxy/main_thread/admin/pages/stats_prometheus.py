"""``/stats/prometheus``: every statistic as Prometheus text, with Envoy's metric names, labels and histogram bounds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from workerproxy.main_thread.admin.page import Page, Param, Request, Response
from workerproxy.main_thread.admin.stats_filter import FilterError, select
from workerproxy.main_thread.admin.tags import Metric, metric_of
from workerproxy.main_thread.histogram_summary import BOUNDS, QUANTILES, cumulative_counts, quantiles

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import HistogramData
    from workerproxy.main_thread.admin.stats_filter import Selection
    from workerproxy.main_thread.server import Server

_BUCKETS: Final = ("cumulative", "summary")


async def prometheus_response(server: Server, request: Request) -> Response:
    """Also the answer of ``/stats?format=prometheus``."""
    buckets = request.query.get("histogram_buckets", "cumulative") or "cumulative"
    if buckets not in _BUCKETS:
        return Response(f"usage: /stats/prometheus?histogram_buckets=({'|'.join(_BUCKETS)})\n", 400)
    try:
        chosen = select(await server.current_stats(), request.query)
    except FilterError as error:
        return Response(f"{error}\n", 400)
    recent = {name: server.store.interval(name) for name in chosen.histograms}
    tags = dict(server.options.stats_tags)
    return Response(render(chosen, tags, None if buckets == "cumulative" else recent))


def render(chosen: Selection, fixed_tags: dict[str, str], summary_of: dict[str, HistogramData | None] | None) -> str:
    """The text. ``fixed_tags`` (--stats-tag) go on every metric; ``summary_of``: quantiles of these, not buckets."""
    lines: list[str] = []
    for kind, numbers in (("counter", chosen.counters), ("gauge", chosen.gauges)):
        for metric, group in _grouped(numbers, fixed_tags):
            lines.append(f"# TYPE {metric} {kind}\n")
            lines += [f"{metric}{{{labels}}} {numbers[name]}\n" for labels, name in group]
    for metric, group in _grouped(chosen.histograms, fixed_tags):
        lines.append(f"# TYPE {metric} {'histogram' if summary_of is None else 'summary'}\n")
        for labels, name in group:
            data = chosen.histograms[name]
            if summary_of is None:
                _histogram(lines, metric, labels, data)
            else:
                _summary(lines, metric, labels, summary_of.get(name))
    return "".join(lines)


def _grouped(values: Iterable[str], fixed: dict[str, str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Metrics in the order of their tag-extracted names, each with (labels, statistic name) in order of the latter."""
    groups: dict[Metric, list[tuple[str, str]]] = defaultdict(list)
    for name in sorted(values):
        metric, labels = metric_of(name, fixed)
        groups[metric].append((labels, name))
    return [(metric.prometheus_name, groups[metric]) for metric in sorted(groups)]


def _histogram(lines: list[str], metric: str, labels: str, data: HistogramData) -> None:
    before = f"{labels}," if labels else ""
    count = sum(data.buckets)
    for bound, below in zip(BOUNDS, cumulative_counts(data), strict=True):
        lines.append(f'{metric}_bucket{{{before}le="{bound}"}} {below}\n')
    lines.append(f'{metric}_bucket{{{before}le="+Inf"}} {count}\n')
    lines.append(f"{metric}_sum{{{labels}}} {data.total_ms}\n")
    lines.append(f"{metric}_count{{{labels}}} {count}\n")


def _summary(lines: list[str], metric: str, labels: str, data: HistogramData | None) -> None:
    before = f"{labels}," if labels else ""
    for quantile, value in zip(QUANTILES, quantiles(data), strict=True):
        text = "nan" if math.isnan(value) else f"{value:g}"
        lines.append(f'{metric}{{{before}quantile="{quantile:g}"}} {text}\n')
    lines.append(f"{metric}_sum{{{labels}}} {data.total_ms if data else 0}\n")
    lines.append(f"{metric}_count{{{labels}}} {sum(data.buckets) if data else 0}\n")


PAGE: Final = Page(
    "/stats/prometheus",
    "print server stats in prometheus format",
    prometheus_response,
    params=(
        Param("usedonly", "Only include stats that have been written by system since restart"),
        Param("text_readouts", "Render text_readouts as new gaugues with value 0 (there are none)"),
        Param("filter", "Regular expression (Google re2) for filtering stats"),
        Param("invert_filter", "Invert the filter regex"),
        Param("histogram_buckets", "Histogram bucket display mode", _BUCKETS),
    ),
)
