"""The memory a worker publishes its statistics in, and how the main process reads it, also when the worker is dead.

One segment per worker process: a sparse memory file made by the main process. It describes itself: a directory that
only grows, and the values it points to. The worker alone writes, the main process alone reads; there is no lock. A
number is eight bytes at an aligned address, so each is whole; numbers that belong together may be one flush apart.

::

    0      header: magic, bytes of directory in use (written last, so a reader never sees half an entry), flushes
    4096   directory: SCHEMA (names and kinds of a group class, once), GROUP (prefix, schema, offset), COUNTER (name)
    1/4    values: a group's counters and gauges; then per histogram its sum and its buckets

Limits: a quarter of the segment for the directory (16 MiB: about 100,000 groups), the rest for values.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, TypeVar

from workerproxy.control.stats import (
    BUCKETS,
    COUNTER,
    HISTOGRAM,
    DynamicCounters,
    Histogram,
    StatsGroup,
    bucket_index,
    stat_name,
)

_log = logging.getLogger("workerproxy.stats")

SEGMENT_BYTES: Final = 64 << 20  # virtual: pages never written cost nothing

_MAGIC: Final = b"WPSTATS1"
_HEADER: Final = struct.Struct("=8sQQ")
_DIRECTORY_USED_AT: Final = 1  # index of an eight-byte word
_FLUSHES_AT: Final = 2
_DIRECTORY_START: Final = 4096
_ENTRY: Final = struct.Struct("=IHHIIQ")  # bytes of the entry, type, hidden, number, bytes of text, offset of values
_HIDDEN_AT: Final = 6
_SCHEMA: Final = 1
_GROUP: Final = 2
_SINGLE: Final = 3
_HISTOGRAM_WORDS: Final = 1 + BUCKETS  # sum of the values in milliseconds, then the buckets

GroupT = TypeVar("GroupT", bound=StatsGroup)


class SegmentFullError(Exception):
    """There is no room for more statistics: too many clusters, listeners or codes for one segment."""


@dataclass(slots=True)
class _Group:
    instance: StatsGroup
    read: Callable[[Any], tuple[int, ...]]
    pack_into: Callable[..., None]
    offset: int
    entry: int  # where its directory entry is
    last: tuple[int, ...]


@dataclass(slots=True)
class _Codes:
    stem: str
    counters: DynamicCounters
    entries: list[int] = field(default_factory=list)  # where their directory entries are
    hidden: bool = False
    offsets: dict[int | str, int] = field(default_factory=dict)  # index of the eight-byte word
    last: dict[int | str, int] = field(default_factory=dict)


class StatsWriter:
    """The worker's side. Groups are made while a configuration is prepared; ``flush`` runs on a timer and on request.

    A group of the same prefix and class is the same instance, so statistics survive reloads.
    """

    def __init__(self, segment: mmap.mmap) -> None:
        self._buffer = segment
        self._words = memoryview(segment).cast("q")
        self._directory_end = len(segment) // 4
        self._directory_used = _DIRECTORY_START
        self._values_used = self._directory_end
        self._schemas: dict[type[StatsGroup], int] = {}
        self._groups: dict[tuple[str, type[StatsGroup]], _Group] = {}
        self._codes: dict[str, _Codes] = {}
        self._histograms: list[tuple[Histogram, int]] = []
        self._full_said = False
        self.before_flush: list[Callable[[], None]] = []  # called first: whoever counts in larger steps
        _HEADER.pack_into(segment, 0, _MAGIC, _DIRECTORY_START, 0)

    def group(self, prefix: str, cls: type[GroupT]) -> GroupT:
        """The statistics of ``cls`` under ``prefix`` (``cluster.a``, with or without the last dot).

        Raises ``SegmentFullError``.
        """
        prefix = stat_name(prefix.rstrip("."))
        known = self._groups.get((prefix, cls))
        if known is None:
            known = self._groups[prefix, cls] = self._make_group(prefix, cls)
        self._hide(known, False)
        return known.instance  # type: ignore[return-value]

    def drop(self, prefix: str, cls: type[StatsGroup]) -> None:
        """No longer show a group, because its cluster or listener is gone. ``group`` shows it again as it was."""
        known = self._groups.get((stat_name(prefix.rstrip(".")), cls))
        if known is not None:
            self._hide(known, True)

    def dynamic(self, prefix: str, stem: str = "") -> DynamicCounters:
        """Counters made as they are used: ``dynamic("cluster.a", "upstream_rq_")[503] += 1``."""
        full = f"{stat_name(prefix.rstrip('.'))}.{stem}"
        codes = self._codes.get(full)
        if codes is None:
            codes = self._codes[full] = _Codes(full, DynamicCounters())
        self._hide_codes(codes, False)
        return codes.counters

    def drop_dynamic(self, prefix: str, stem: str = "") -> None:
        """The same as ``drop`` for what ``dynamic`` gave; ``dynamic`` shows it again."""
        codes = self._codes.get(f"{stat_name(prefix.rstrip('.'))}.{stem}")
        if codes is not None:
            self._hide_codes(codes, True)

    def flush(self) -> None:
        """Publish everything. Unchanged groups cost one comparison."""
        for collect in self.before_flush:
            collect()
        buffer = self._buffer
        for group in self._groups.values():
            values = group.read(group.instance)
            if values != group.last:
                group.pack_into(buffer, group.offset, *values)
                group.last = values
        for histogram, word in self._histograms:
            if histogram.pending:
                self._sort_samples(histogram, word)
        for codes in self._codes.values():
            if codes.counters != codes.last:
                self._flush_codes(codes)
        self._words[_FLUSHES_AT] += 1

    def _sort_samples(self, histogram: Histogram, word: int) -> None:
        words = self._words
        total = 0
        for value, count in Tally(histogram.pending).items():
            words[word + 1 + bucket_index(value)] += count
            total += value * count
        words[word] += total
        histogram.pending.clear()

    def _flush_codes(self, codes: _Codes) -> None:
        for key, value in codes.counters.items():
            word = codes.offsets.get(key)
            if word is None:
                try:
                    word = self._make_single(codes, f"{codes.stem}{key}") // 8
                except SegmentFullError as error:
                    self._say_full(error)
                    return
                codes.offsets[key] = word
            self._words[word] = value
        codes.last = dict(codes.counters)

    def _make_group(self, prefix: str, cls: type[StatsGroup]) -> _Group:
        schema = self._schemas.get(cls)
        if schema is None:
            schema = len(self._schemas)
            text = "\n".join(f"{kind} {name}" for name, kind in cls.stat_kinds.items())
            self._add_entry(_SCHEMA, schema, text, 0)
            self._schemas[cls] = schema
        numbers = [name for name, kind in cls.stat_kinds.items() if kind != HISTOGRAM]
        histograms = [name for name, kind in cls.stat_kinds.items() if kind == HISTOGRAM]
        offset = self._take_values(len(numbers) + len(histograms) * _HISTOGRAM_WORDS)
        entry = self._add_entry(_GROUP, schema, prefix, offset)
        instance = cls()
        word = offset // 8 + len(numbers)
        for index, name in enumerate(histograms):
            self._histograms.append((getattr(instance, name), word + index * _HISTOGRAM_WORDS))
        pack_into = struct.Struct(f"={len(numbers)}q").pack_into
        return _Group(instance, _reader(numbers), pack_into, offset, entry, (0,) * len(numbers))

    def _make_single(self, codes: _Codes, name: str) -> int:
        offset = self._take_values(1)
        entry = self._add_entry(_SINGLE, 0, name, offset)
        codes.entries.append(entry)
        self._buffer[entry + _HIDDEN_AT] = codes.hidden
        return offset

    def _take_values(self, words: int) -> int:
        offset = self._values_used
        if offset + words * 8 > len(self._buffer):
            raise SegmentFullError(f"no room for statistics: {len(self._groups)} groups fill {len(self._buffer)} bytes")
        self._values_used += words * 8
        return offset

    def _add_entry(self, kind: int, number: int, text: str, offset: int) -> int:
        data = text.encode()
        size = -(-(_ENTRY.size + len(data)) // 8) * 8
        at = self._directory_used
        if at + size > self._directory_end:
            raise SegmentFullError(f"no room for the names of statistics: {len(self._groups)} groups")
        _ENTRY.pack_into(self._buffer, at, size, kind, 0, number, len(data), offset)
        self._buffer[at + _ENTRY.size : at + _ENTRY.size + len(data)] = data
        self._directory_used = at + size
        self._words[_DIRECTORY_USED_AT] = self._directory_used
        return at

    def _hide(self, group: _Group, hidden: bool) -> None:
        self._buffer[group.entry + _HIDDEN_AT] = hidden

    def _hide_codes(self, codes: _Codes, hidden: bool) -> None:
        codes.hidden = hidden
        for entry in codes.entries:
            self._buffer[entry + _HIDDEN_AT] = hidden

    def _say_full(self, error: SegmentFullError) -> None:
        if not self._full_said:
            self._full_said = True
            _log.error("some response codes are not counted: %s", error)


def _reader(names: list[str]) -> Callable[[Any], tuple[int, ...]]:
    if len(names) > 1:
        return attrgetter(*names)  # one call for all of them
    if not names:
        return lambda instance: ()
    get = attrgetter(names[0])
    return lambda instance: (get(instance),)


@dataclass(slots=True)
class HistogramData:
    """What a histogram has collected: the sum of all values (ms) and the count in each bucket."""

    total_ms: int
    buckets: list[int]

    def add(self, other: HistogramData) -> None:
        self.total_ms += other.total_ms
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def minus(self, earlier: HistogramData) -> HistogramData:
        """What came since ``earlier``, a state of the same histogram."""
        buckets = [now - then for now, then in zip(self.buckets, earlier.buckets, strict=True)]
        return HistogramData(self.total_ms - earlier.total_ms, buckets)

    def copy(self) -> HistogramData:
        return HistogramData(self.total_ms, list(self.buckets))

    @classmethod
    def empty(cls) -> HistogramData:
        return cls(0, [0] * BUCKETS)


@dataclass(slots=True)
class StatValues:
    """Statistics by full name."""

    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, HistogramData] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Counters and histograms, for another process; gauges belong to this one."""
        histograms = {name: [data.total_ms, _packed(data.buckets)] for name, data in self.histograms.items()}
        return json.dumps({"counters": self.counters, "histograms": histograms}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> StatValues:
        """The reverse. Raises ``ValueError`` when it is none."""
        try:
            plain = json.loads(text)
            counters = {str(name): int(value) for name, value in plain["counters"].items()}
            histograms = {
                str(name): HistogramData(int(total), _unpacked(pairs))
                for name, (total, pairs) in plain["histograms"].items()
            }
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"no statistics: {error!r}") from None
        return cls(counters, {}, histograms)


def _packed(buckets: list[int]) -> list[tuple[int, int]]:
    """Nearly all buckets of a histogram are empty."""
    return [(index, count) for index, count in enumerate(buckets) if count]


def _unpacked(pairs: list[list[int]]) -> list[int]:
    buckets = [0] * BUCKETS
    for index, count in pairs:
        buckets[index] = count
    return buckets


@dataclass(slots=True)
class _Known:
    """A directory entry the reader has understood."""

    entry: int
    counters: list[tuple[str, int]] = field(default_factory=list)  # full name, index of the word
    gauges: list[tuple[str, int]] = field(default_factory=list)
    histograms: list[tuple[str, int]] = field(default_factory=list)


class StatsReader:
    """The main process's side: reads a segment at any time, without the worker's help."""

    def __init__(self, segment: mmap.mmap) -> None:
        self._buffer = segment
        self._words = memoryview(segment).cast("q")
        self._seen = _DIRECTORY_START
        self._schemas: dict[int, list[tuple[str, str]]] = {}
        self._known: list[_Known] = []

    @property
    def flushes(self) -> int:
        """How often the worker has published."""
        return self._words[_FLUSHES_AT]

    def read_into(self, values: StatValues, *, gauges: bool = True) -> None:
        """Add what the segment holds to ``values``; a name that is there already is summed up."""
        self._read_directory()
        words = self._words
        for known in self._known:
            if self._buffer[known.entry + _HIDDEN_AT]:
                continue
            for name, word in known.counters:
                values.counters[name] = values.counters.get(name, 0) + words[word]
            if gauges:
                for name, word in known.gauges:
                    values.gauges[name] = values.gauges.get(name, 0) + words[word]
            for name, word in known.histograms:
                data = HistogramData(words[word], words[word + 1 : word + _HISTOGRAM_WORDS].tolist())
                have = values.histograms.get(name)
                if have is None:
                    values.histograms[name] = data
                elif any(data.buckets):
                    have.add(data)

    def sum_counters(self, start: str, end: str) -> int:
        """The sum of the counters whose names begin and end so, shown or not."""
        self._read_directory()
        words = self._words
        return sum(
            words[word]
            for known in self._known
            for name, word in known.counters
            if name.startswith(start) and name.endswith(end)
        )

    def close(self) -> None:
        self._words.release()
        self._buffer.close()

    def _read_directory(self) -> None:
        if self._buffer[: len(_MAGIC)] != _MAGIC:
            return  # the worker has not come so far
        end = self._words[_DIRECTORY_USED_AT]
        while self._seen < end:
            size, kind, _, number, length, offset = _ENTRY.unpack_from(self._buffer, self._seen)
            start = self._seen + _ENTRY.size
            text = self._buffer[start : start + length].decode()
            if kind == _SCHEMA:
                pairs = (line.partition(" ") for line in text.split("\n") if line)
                self._schemas[number] = [(stat, name) for name, _, stat in pairs]
            elif kind == _GROUP:
                self._known.append(self._understand(self._seen, text, self._schemas[number], offset // 8))
            elif kind == _SINGLE:
                self._known.append(_Known(self._seen, counters=[(text, offset // 8)]))
            self._seen += size

    @staticmethod
    def _understand(entry: int, prefix: str, schema: list[tuple[str, str]], word: int) -> _Known:
        known = _Known(entry)
        for stat, kind in schema:
            if kind != HISTOGRAM:
                (known.counters if kind == COUNTER else known.gauges).append((f"{prefix}.{stat}", word))
                word += 1
        for stat, kind in schema:
            if kind == HISTOGRAM:
                known.histograms.append((f"{prefix}.{stat}", word))
                word += _HISTOGRAM_WORDS
        return known
