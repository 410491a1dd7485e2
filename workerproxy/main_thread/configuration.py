"""The configuration as the main process keeps it: versions, which one is active, what was refused last, limit slots."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from workerproxy.control.board import MAX_ROWS, MAX_SLOTS
from workerproxy.control.names import listener_name
from workerproxy.main_thread.balance_group import wants_exact_balance

_PRIORITIES: Final = ("default", "high")
_LIMITS: Final = ("connections", "pending", "requests", "retries")


@dataclass(frozen=True, slots=True)
class ConfigVersion:
    """One configuration that was accepted by the loader; numbers count up from 1."""

    version: int
    bootstrap: Any  # envoy.config.bootstrap.v3.Bootstrap; never changed once it is here
    serialized: bytes  # the same, every listener with a name
    slots: MappingProxyType[str, int]
    binds: Mapping[str, list[int]]  # listener -> where it is bound: ``listener_manager.Bind.bind_id``
    loaded_at: float = field(default_factory=time.time)  # seconds since the epoch

    @property
    def exact_balance(self) -> bool:
        """Whether connections of a listener are handed among the workers."""
        return wants_exact_balance(self.listeners)

    @property
    def listeners(self) -> Iterable[Any]:
        return self.bootstrap.static_resources.listeners  # type: ignore[no-any-return]

    @property
    def clusters(self) -> Iterable[Any]:
        return self.bootstrap.static_resources.clusters  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class RefusedConfig:
    """A configuration that did not become active, and why."""

    at: float  # seconds since the epoch
    why: str
    version: int = 0  # 0: it did not get as far as a number
    bootstrap: Any = None


class LimitSlots:
    """Which slot of the board belongs to which limit. A limit keeps its slot for as long as the process runs."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}

    @property
    def used(self) -> int:
        return len(self._slots)

    def known(self) -> dict[str, int]:
        """All that were ever assigned, for the next program in an upgrade."""
        return dict(self._slots)

    def inherit(self, slots: Mapping[str, int]) -> None:
        """Go on from what a predecessor has assigned. Before the first ``assign``."""
        self._slots = dict(slots)

    def assign(
        self, clusters: Iterable[str], listeners: Iterable[str], balanced: Iterable[str] = ()
    ) -> MappingProxyType[str, int]:
        """The slots of these: ``<cluster>/<priority>/<limit>``, ``<listener>/listener``, ``/listener`` (all) -> slot.

        ``balanced`` listeners have ``MAX_ROWS`` slots in a row, one for each worker that may be handed connections;
        ``<listener>/balance`` is the first. Raises ``ValueError`` when all are used.
        """
        chosen: dict[str, int] = {}
        for listener in ("", *listeners):
            key = f"{listener}/listener"
            chosen[key] = self._slots.setdefault(key, len(self._slots))
        for cluster in clusters:
            for priority in _PRIORITIES:
                for limit in _LIMITS:
                    key = f"{cluster}/{priority}/{limit}"
                    chosen[key] = self._slots.setdefault(key, len(self._slots))
        for listener in balanced:
            for row in range(MAX_ROWS):
                self._slots.setdefault(f"{listener}/balance{row or ''}", len(self._slots))
            chosen[f"{listener}/balance"] = self._slots[f"{listener}/balance"]
        if len(self._slots) > MAX_SLOTS:
            raise ValueError(f"more than {MAX_SLOTS} limits since the start of the process; restart it")
        return MappingProxyType(chosen)


class Configuration:
    """What is active and what was refused."""

    def __init__(self) -> None:
        self.active: ConfigVersion | None = None
        self.last_refused: RefusedConfig | None = None
        self.slots = LimitSlots()
        self._last_number = 0

    def __repr__(self) -> str:
        active = self.active.version if self.active else "none"
        return f"<Configuration active={active} last={self._last_number}>"

    def new_version(self, bootstrap: Any, binds: Mapping[str, list[int]]) -> ConfigVersion:
        """Give a loaded bootstrap its number and its slots; it is not active yet. Raises ``ValueError``."""
        self._last_number += 1
        resources = bootstrap.static_resources
        slots = self.slots.assign(
            [cluster.name for cluster in resources.clusters],
            [listener_name(one) for one in resources.listeners],
            [listener_name(one) for one in resources.listeners if wants_exact_balance([one])],
        )
        return ConfigVersion(self._last_number, bootstrap, _serialize(bootstrap), slots, binds)


def _serialize(bootstrap: Any) -> bytes:
    named = type(bootstrap)()
    named.CopyFrom(bootstrap)
    for listener in named.static_resources.listeners:
        listener.name = listener_name(listener)
    return named.SerializeToString(deterministic=True)  # type: ignore[no-any-return]
