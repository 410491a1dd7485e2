"""``/stats``: every statistic, summed up over the workers, as text, JSON or Prometheus lines."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from workerproxy.main_thread.admin.page import JSON, Page, Param, Request, Response
from workerproxy.main_thread.admin.pages.stats_prometheus import prometheus_response
from workerproxy.main_thread.admin.stats_filter import FilterError, Selection, select
from workerproxy.main_thread.histogram_summary import (
    BOUNDS,
    QUANTILES,
    cumulative_counts,
    disjoint_counts,
    occupied,
    quantiles,
)

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import HistogramData
    from workerproxy.main_thread.server import Server

_FORMATS: Final = ("text", "json", "prometheus")
_BUCKETS: Final = ("cumulative", "disjoint", "detailed", "summary")


async def _answer(server: Server, request: Request) -> Response:
    style = request.query.get("format", "text")
    if style not in _FORMATS:
        return Response(f"usage: /stats?format=({'|'.join(sorted(_FORMATS))})\n\n", 400)
    if style == "prometheus":
        return await prometheus_response(server, request)
    buckets = request.query.get("histogram_buckets", "summary") or "summary"
    if buckets not in _BUCKETS:
        return Response(f"usage: /stats?histogram_buckets=({'|'.join(sorted(_BUCKETS))})\n", 400)
    try:
        chosen = select(await server.current_stats(), request.query)
    except FilterError as error:
        return Response(f"{error}\n", 400)
    if style == "json":
        return Response(_json(server, chosen, buckets), content_type=JSON)
    return Response(_text(server, chosen, buckets))


# --- text


def _text(server: Server, chosen: Selection, buckets: str) -> str:
    numbers = sorted({**chosen.counters, **chosen.gauges}.items())
    lines = [f"{name}: {value}\n" for name, value in numbers]
    for name, data in sorted(chosen.histograms.items()):
        if any(data.buckets):
            lines.append(_histogram_line(name, data, server.store.interval(name), buckets))
        else:
            lines.append(f"{name}: No recorded values\n")
    return "".join(lines)


def _histogram_line(name: str, data: HistogramData, interval: HistogramData | None, buckets: str) -> str:
    if buckets == "summary":
        return f"{name}: {_summary(data, interval)}\n"
    if buckets == "detailed":
        totals, recent = _detail_text(data), _detail_text(interval)
        return f"{name}:\n  totals={totals}\n  intervals={recent}\n  summary={_summary(data, interval)}\n"
    count = cumulative_counts if buckets == "cumulative" else disjoint_counts
    pairs = zip(BOUNDS, count(interval), count(data), strict=True)
    return f"{name}: {' '.join(f'B{bound:g}({recent},{total})' for bound, recent, total in pairs)}\n"


def _summary(data: HistogramData, interval: HistogramData | None) -> str:
    values = zip(QUANTILES, quantiles(interval), quantiles(data), strict=True)
    return " ".join(f"P{q * 100:g}({number(recent)},{number(total)})" for q, recent, total in values)


def _detail_text(data: HistogramData | None) -> str:
    if data is None:
        return ""
    return ", ".join(f"{number(low)},{number(width)}:{count}" for low, width, count in occupied(data))


def number(value: float) -> str:
    """A number as Envoy prints it: ``nan``, ``5``, ``5.05``."""
    return "nan" if math.isnan(value) else repr(int(value)) if value == int(value) else repr(value)


# --- JSON


def _json(server: Server, chosen: Selection, buckets: str) -> str:
    stats: list[Any] = [
        {"name": name, "value": value} for name, value in sorted({**chosen.counters, **chosen.gauges}.items())
    ]
    if chosen.histograms:
        stats.append({"histograms": _json_histograms(server, chosen.histograms, buckets)})
    return json.dumps({"stats": stats}, separators=(",", ":"))


def _json_histograms(server: Server, histograms: dict[str, HistogramData], buckets: str) -> Any:
    entries = [(name, data, server.store.interval(name)) for name, data in sorted(histograms.items())]
    supported = [_plain(q * 100) for q in QUANTILES]
    if buckets == "summary":
        values = [{"name": name, "values": _json_quantiles(data, recent)} for name, data, recent in entries]
        return {"supported_quantiles": supported, "computed_quantiles": values}
    if buckets == "detailed":
        details = [
            {
                "name": name,
                "totals": _json_detail(data),
                "intervals": _json_detail(recent),
                "percentiles": _json_quantiles(data, recent),
            }
            for name, data, recent in entries
        ]
        return {"supported_percentiles": supported, "details": details}
    count = cumulative_counts if buckets == "cumulative" else disjoint_counts
    return [
        {
            "name": name,
            "buckets": [
                {"upper_bound": _plain(bound), "interval": few, "cumulative": all_}
                for bound, few, all_ in zip(BOUNDS, count(recent), count(data), strict=True)
            ],
        }
        for name, data, recent in entries
    ]


def _json_quantiles(data: HistogramData, interval: HistogramData | None) -> list[dict[str, float | None]]:
    pairs = zip(quantiles(data), quantiles(interval), strict=True)
    return [{"cumulative": _plain(total), "interval": _plain(recent)} for total, recent in pairs]


def _json_detail(data: HistogramData | None) -> list[dict[str, float | None]]:
    found = occupied(data) if data is not None else ()
    return [{"lower_bound": _plain(low), "width": _plain(width), "count": count} for low, width, count in found]


def _plain(value: float) -> float | None:
    if math.isnan(value):
        return None
    return int(value) if value == int(value) else value


PAGE: Final = Page(
    "/stats",
    "print server stats",
    _answer,
    params=(
        Param("usedonly", "Only include stats that have been written by system since restart"),
        Param("filter", "Regular expression (Google re2) for filtering stats"),
        Param("invert_filter", "Invert the filter regex"),
        Param("format", "Format to use", _FORMATS),
        Param("type", "Stat types to include.", ("All", "Counters", "Histograms", "Gauges", "TextReadouts")),
        Param("histogram_buckets", "Histogram bucket display mode", _BUCKETS),
    ),
)
