"""All statistics of all processes, added up. Reads shared memory only: a stuck or dead worker is read like any other.

A dead worker's counters and histograms are kept as a base, so they never go backwards; its gauges go with it. The
``interval`` of histograms is what came in the last whole ``stats_flush_interval`` (Envoy's default, 5 s).
"""

from __future__ import annotations

import mmap
from typing import Final

from workerproxy.control.stats_segment import HistogramData, StatsReader, StatsWriter, StatValues

FLUSH_INTERVAL_S: Final = 5.0
_OWN_SEGMENT_BYTES: Final = 16 << 20


class StatsStore:
    """``own`` is where the main process counts; workers' segments are attached and, when they die, retired."""

    def __init__(self) -> None:
        memory = mmap.mmap(-1, _OWN_SEGMENT_BYTES)
        self.own = StatsWriter(memory)
        self._own_reader = StatsReader(memory)
        self._workers: list[StatsReader] = []
        self._base = StatValues()
        self._interval_start: dict[str, HistogramData] = {}
        self._interval: dict[str, HistogramData] = {}

    def attach(self, segment: mmap.mmap) -> StatsReader:
        """Count a new worker's segment in from now on."""
        reader = StatsReader(segment)
        self._workers.append(reader)
        return reader

    def base(self) -> StatValues:
        """What is not in any living worker's segment: counted here, or by workers that are gone. No gauges."""
        self.own.flush()
        values = StatValues(
            dict(self._base.counters), {}, {name: data.copy() for name, data in self._base.histograms.items()}
        )
        self._own_reader.read_into(values, gauges=False)
        return values

    def inherit(self, values: StatValues) -> None:
        """Go on from what a predecessor has counted."""
        self._base.counters.update(values.counters)
        self._base.histograms.update(values.histograms)

    def retire(self, reader: StatsReader) -> None:
        """The worker is dead: keep its counters and histograms, forget its gauges, release its memory."""
        self._workers.remove(reader)
        reader.read_into(self._base, gauges=False)
        reader.close()

    def merged(self) -> StatValues:
        """Every statistic of this moment, by name."""
        self.own.flush()
        values = StatValues(
            dict(self._base.counters), {}, {name: data.copy() for name, data in self._base.histograms.items()}
        )
        for reader in (self._own_reader, *self._workers):
            reader.read_into(values)
        return values

    def reset_counters(self) -> None:
        """All counters read 0 now. Workers count on; what they have counted so far is subtracted from now on."""
        for name, value in self.merged().counters.items():
            self._base.counters[name] = self._base.counters.get(name, 0) - value

    def roll_interval(self) -> None:
        """A flush interval is over: what came in it is what ``interval`` tells until the next."""
        now = self.merged().histograms
        empty = HistogramData.empty()
        self._interval = {name: data.minus(self._interval_start.get(name, empty)) for name, data in now.items()}
        self._interval_start = now

    def interval(self, name: str) -> HistogramData | None:
        """What a histogram collected in the last whole interval; None when there was none yet."""
        return self._interval.get(name)
