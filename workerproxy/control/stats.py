"""Statistics as plain attributes: a group of counters, gauges and histograms under one prefix.

A group is a class whose annotations name its statistics, with Envoy's names::

    class ClusterStats(StatsGroup):
        upstream_cx_total: Counter
        upstream_cx_active: Gauge
        upstream_rq_time: Histogram

The data path adds to plain ``int`` attributes (``stats.upstream_cx_total += 1``) and calls ``record`` of a histogram;
nothing else happens until the worker's flush (``control.stats_segment``). Knows no memory layout and no text format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, TypeAlias

Counter: TypeAlias = Annotated[int, "counter"]
Gauge: TypeAlias = Annotated[int, "gauge"]

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
_KINDS: Final = {"Counter": COUNTER, "Gauge": GAUGE, "Histogram": HISTOGRAM}

# Histogram buckets as circllhist has them, for whole milliseconds: 0 to 99 have a bucket each, above that every
# decade has 90 (two significant digits), up to 10**9 ms (eleven days), beyond which the last one takes all.
_EXACT: Final = 100
_PER_DECADE: Final = 90
_DECADES: Final = 7
BUCKETS: Final = _EXACT + _PER_DECADE * _DECADES
LARGEST: Final = 10 ** (_DECADES + 2) - 1  # milliseconds


def bucket_index(value: int) -> int:
    """The bucket of a value in milliseconds; values below 0 count as 0, above ``LARGEST`` as ``LARGEST``."""
    if value < _EXACT:
        return value if value > 0 else 0
    if value > LARGEST:
        return BUCKETS - 1
    decade = 0
    while value >= 100:
        value //= 10
        decade += 1
    return _EXACT + _PER_DECADE * (decade - 1) + value - 10


def bucket_bounds(index: int) -> tuple[float, float]:
    """Lower bound and width of a bucket in milliseconds. Single digits are a tenth wide, as circllhist has them."""
    if index < _EXACT:
        return float(index), 0.0 if index == 0 else 0.1 if index < 10 else 1.0
    decade, step = divmod(index - _EXACT, _PER_DECADE)
    width = 10.0 ** (decade + 1)
    return (step + 10) * width, width


class Histogram:
    """A distribution of milliseconds. ``record(value_ms)`` keeps the sample; the flush sorts them into buckets.

    ``record`` is the ``append`` of a list, the cheapest call Python has; it takes an ``int`` of at least 0.
    """

    __slots__ = ("pending", "record")

    pending: list[int]
    record: Callable[[int], None]

    def __init__(self) -> None:
        self.pending = []
        self.record = self.pending.append

    def __repr__(self) -> str:
        return f"<Histogram {len(self.pending)} not flushed>"


class DynamicCounters(dict[int | str, int]):
    """Counters whose names appear as they are first used: ``codes[503] += 1`` counts ``<name>503``."""

    __slots__ = ()

    def __missing__(self, key: int | str) -> int:
        return 0


class _GroupType(type):
    """Makes the annotations of a group its slots: the fastest attributes, and a misspelt name is an error."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _GroupType:
        annotations: dict[str, Any] = namespace.get("__annotations__", {})
        kinds = {stat: _kind(name, stat, hint) for stat, hint in annotations.items() if "ClassVar" not in str(hint)}
        namespace["__slots__"] = tuple(kinds)
        group = super().__new__(mcs, name, bases, namespace)
        inherited: dict[str, str] = {}
        for base in bases:
            inherited.update(getattr(base, "stat_kinds", {}))
        group.stat_kinds = {**inherited, **kinds}  # type: ignore[attr-defined]
        return group


class StatsGroup(metaclass=_GroupType):
    """The base of groups. Every number starts at 0; instances come from ``StatsWriter.group``."""

    stat_kinds: ClassVar[dict[str, str]]  # name -> COUNTER, GAUGE or HISTOGRAM, in order of declaration

    def __init__(self) -> None:
        for name, kind in self.stat_kinds.items():
            setattr(self, name, Histogram() if kind == HISTOGRAM else 0)

    def __repr__(self) -> str:
        used = (f"{name}={getattr(self, name)}" for name in self.stat_kinds if getattr(self, name))
        return f"<{type(self).__name__} {' '.join(used)}>"


def stat_name(text: str) -> str:
    """A configured name as part of a statistic's name: Envoy replaces ``:`` by ``_`` (and NUL, which no name has)."""
    return text.replace(":", "_").replace("\0", "_")


def _kind(group: str, stat: str, hint: object) -> str:
    """What an annotation declares. It is text in modules with postponed evaluation, an object in others."""
    if isinstance(hint, str):
        kind = _KINDS.get(hint.rpartition(".")[2])
    elif hint is Histogram:
        kind = HISTOGRAM
    else:
        kind = next(iter(getattr(hint, "__metadata__", ())), None)
    if kind is None:
        raise TypeError(f"{group}.{stat}: annotate it as Counter, Gauge or Histogram, not {hint!r}")
    return kind
