"""From a statistic's name to a Prometheus metric: the variable parts of the name become labels.

The rules are Envoy's default tag extraction (``well_known_names.cc``), as one table. Each rule looks at the whole
name; what all of them cut out is removed at the end, so their order matters only for the order of labels.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

# A listener's part of a name: an IP address with its port, where dots belong to it, or one token.
_ADDRESS: Final = r"(?:\d+\.\d+\.\d+\.\d+_\d+|\[[0-9a-fA-F.:_]*\]_\d+|[^.]+)"

# Tag, pattern. Group "cut" is removed from the name, group "value" is the label's value.
_RULES: Final = tuple(
    (tag, re.compile(pattern))
    for tag, pattern in (
        ("envoy.response_code", r"_rq(?P<cut>_(?P<value>\d{3}))$"),
        ("envoy.response_code_class", r"_rq_(?P<cut>(?P<value>\d))xx$"),
        ("envoy.http_user_agent", r"^http\.[^.]+\.user_agent\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.virtual_cluster", r"^vhost\.[^.]+\.vcluster\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.route", r"^vhost\.[^.]+\.route\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.virtual_host", r"^vhost\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.tcp_prefix", r"^tcp\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.cluster_name", r"^cluster\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.http_conn_manager_prefix", r"^http\.(?P<cut>(?P<value>[^.]+)\.)"),
        ("envoy.http_conn_manager_prefix", r"^listener\..*?\.http\.(?P<cut>(?P<value>[^.]+)\.)"),
        (
            "envoy.worker_id",
            rf"^(?:listener\.{_ADDRESS}|server|listener_manager|thread_local_cluster_manager)\.worker_"
            r"(?P<cut>(?P<value>\d+)\.)",
        ),
        ("envoy.listener_address", rf"^listener\.(?!admin\.)(?P<cut>(?P<value>{_ADDRESS})\.)"),
        ("envoy.rds_route_config", r"^http\.[^.]+\.rds\.(?P<cut>(?P<value>.+)\.)[^.]+$"),
        ("envoy.local_http_ratelimit_prefix", r"^(?P<cut>(?P<value>[^.]+)\.)http_local_rate_limit\."),
    )
)
_UNFIT: Final = re.compile(r"[^a-zA-Z0-9_]")


class Metric(NamedTuple):
    """Sorts as Envoy sorts: by the name that is left after extraction."""

    extracted: str

    @property
    def prometheus_name(self) -> str:
        return f"envoy_{_UNFIT.sub('_', self.extracted)}"


def extract(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The name without its variable parts, and those as (tag, value)."""
    tags: dict[str, str] = {}
    cuts: list[tuple[int, int]] = []
    for tag, pattern in _RULES:
        match = pattern.search(name) if tag not in tags else None
        if match is not None:
            tags[tag] = match["value"]
            cuts.append(match.span("cut"))
    left: list[str] = []
    position = 0
    for start, end in sorted(cuts):
        left.append(name[position:start])
        position = max(position, end)
    left.append(name[position:])
    return "".join(left), tuple(tags.items())


def metric_of(name: str, fixed: dict[str, str]) -> tuple[Metric, str]:
    """The metric of a statistic and its labels as they stand between the braces; ``fixed`` tags are added to all."""
    extracted, tags = _remembered(name)
    pairs = (*tags, *fixed.items())
    labels = ",".join(f'{_UNFIT.sub("_", tag)}="{_escape(value)}"' for tag, value in pairs)
    return Metric(extracted), labels


@lru_cache(maxsize=1 << 17)
def _remembered(name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return extract(name)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
