"""Which statistics a request wants: ``filter``, ``invert_filter``, ``usedonly``, ``type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import re2

if TYPE_CHECKING:
    from workerproxy.control.stats_segment import HistogramData, StatValues

_TYPES: Final = ("All", "Counters", "Gauges", "Histograms", "TextReadouts")


class FilterError(ValueError):
    """The query makes no sense; the text is the answer."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is left of all statistics."""

    counters: dict[str, int]
    gauges: dict[str, int]
    histograms: dict[str, HistogramData]


def select(values: StatValues, query: Mapping[str, str]) -> Selection:
    """The statistics a query asks for. Raises ``FilterError``.

    ``usedonly``: those that are not zero. Envoy also counts what was written and is zero again.
    """
    kind = query.get("type", "All") or "All"
    if kind not in _TYPES:
        raise FilterError("invalid &type= param")
    test = _name_test(query)
    used = "usedonly" in query

    def numbers(wanted: str, source: dict[str, int]) -> dict[str, int]:
        if kind not in ("All", wanted):
            return {}
        return {name: value for name, value in source.items() if (value or not used) and test(name)}

    histograms: dict[str, HistogramData] = {}
    if kind in ("All", "Histograms"):
        histograms = {
            name: data for name, data in values.histograms.items() if (not used or any(data.buckets)) and test(name)
        }
    return Selection(numbers("Counters", values.counters), numbers("Gauges", values.gauges), histograms)


def _name_test(query: Mapping[str, str]) -> Callable[[str], bool]:
    pattern = query.get("filter", "")
    if not pattern:
        return lambda name: True
    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(pattern, options=options).search
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise FilterError(f"Invalid re2 regex: {reason}") from None
    if "invert_filter" in query:
        return lambda name: search(name) is None
    return lambda name: search(name) is not None
