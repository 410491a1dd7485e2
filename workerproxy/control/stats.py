"""Statistics as plain attributes: a group of counters, gauges and histograms under one prefix.

A group is a class whose annotations name its statistics, with Envoy's names. The data path adds to plain ``int``
attributes; nothing else happens until the worker's flush.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

Counter: TypeAlias = Annotated[int, "counter"]
Gauge: TypeAlias = Annotated[int, "gauge"]
