"""The listeners: which there are, on which binds, and how one configuration's become the next one's.

A *bind* is one bound address with its sockets. A listener of a new configuration that wants the same address with the
same socket options takes over the bind as it is, whatever the listener is called, so nothing is lost by a rename. New
addresses are bound before the workers are asked to prepare; what no listener wants any more drains: handshakes are
ignored, what is queued is accepted, connections finish. Envoy's names: ``ListenerManagerImpl``, ``ListenerImpl``.

Knows sockets and names; ``reload`` decides when, ``supervisor`` says who reads them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final

from workerproxy.control.names import address_text, listener_name
from workerproxy.main_thread.listener_sockets import (
    Bind,
    BindKey,
    ListenError,
    binds_to_port,
    listening_address,
    open_bind,
)

_log = logging.getLogger("workerproxy.main")

# States of a listener.
OPENING: Final = "opening"  # its sockets are bound; the workers prepare it
ACTIVE: Final = "active"
DRAINING: Final = "draining"  # gone from the configuration, or stopped: connections finish
CLOSED: Final = "closed"  # terminal

# State -> event -> state that follows.
TRANSITIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        OPENING: {"committed": ACTIVE, "refused": CLOSED},
        ACTIVE: {"removed": DRAINING, "stopped": DRAINING},
        DRAINING: {"drain time is up": CLOSED},
        CLOSED: {},
    }
)


@dataclass(slots=True, eq=False)
class Listener:
    """One listener of the configuration, over all versions in which it has its name and its address."""

    name: str
    binds: list[Bind]
    config: Any  # listener.v3.Listener, of the latest version
    state: str = OPENING
    since: float = field(default_factory=time.monotonic)  # of the state

    def __repr__(self) -> str:
        return f"<Listener {self.name} {self.state} {self.binds!r}>"

    @property
    def addresses(self) -> list[str]:
        return [bind.address for bind in self.binds]

    def move(self, event: str) -> None:
        self.state = TRANSITIONS[self.state][event]
        self.since = time.monotonic()
        _log.debug("listener %s: %s -> %s", self.name, event, self.state)


@dataclass(slots=True)
class ListenerPlan:
    """What the listeners become when a configuration is committed."""

    listeners: dict[str, Listener] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    opened: list[Bind] = field(default_factory=list)
    removed: list[Listener] = field(default_factory=list)
    gone: list[Bind] = field(default_factory=list)

    @property
    def binds(self) -> dict[str, list[int]]:
        """As ``control.messages.Prepare`` has them."""
        return {name: [bind.bind_id for bind in one.binds] for name, one in self.listeners.items()}


class ListenerManager:
    """``active`` by name; ``binds`` are all that workers may have to read."""

    def __init__(self, workers: int) -> None:
        self.workers = workers  # sockets a new bind is opened with
        self.active: dict[str, Listener] = {}
        self.draining: list[Listener] = []
        self.binds: dict[int, Bind] = {}
        self._given: list[Bind] = []  # sockets this process was given, and nobody has taken yet
        self._ids = itertools.count(1)

    def __repr__(self) -> str:
        return f"<ListenerManager {list(self.active)} draining={len(self.draining)}>"

    # --- sockets from elsewhere

    def give(self, sockets: Sequence[Any], *, shared: bool, listener: str = "") -> None:
        """Sockets of one address that already listen: of a predecessor, or from systemd.

        ``listener``: whose they were, where the address in the configuration cannot tell (port 0).
        """
        address = listening_address(sockets[0])
        self._given.append(Bind(0, BindKey(b"", b"", listener), address, list(sockets), shared))

    def not_taken(self) -> list[Bind]:
        """What was given and no listener of the configuration wants; the caller closes it."""
        left, self._given = self._given, []
        return left

    # --- one configuration after the other

    def plan(self, configs: Iterable[Any], *, trial: bool = False) -> ListenerPlan:
        """Bind what is new. Raises ``ListenErrors`` with every address that cannot be had; then nothing has changed.

        ``trial``: bind without listening, for a plan that is going to be discarded.
        """
        plan = ListenerPlan()
        errors: list[str] = []
        free = {bind.key: bind for listener in self.active.values() for bind in listener.binds}
        wanted = [(listener_name(config), config) for config in configs]
        kept = {name: free.pop(BindKey.of(config), None) for name, config in wanted if binds_to_port(config)}
        for name, config in wanted:
            plan.configs[name] = config
            if name not in kept:
                plan.listeners[name] = Listener(name, [], config)
                continue
            bind = kept[name]
            if bind is None:
                try:
                    bind = self._open(name, config, listen=not trial)
                except ListenError as error:
                    errors.append(str(error))
                    continue
                plan.opened.append(bind)
            plan.listeners[name] = self._same(name, bind) or Listener(name, [bind], config)
        if errors:
            self.discard(plan)
            raise ListenErrors(errors)
        self.binds.update({bind.bind_id: bind for bind in plan.opened})
        staying = set(map(id, plan.listeners.values()))
        plan.removed = [one for one in self.active.values() if id(one) not in staying]
        used = {bind.bind_id for one in plan.listeners.values() for bind in one.binds}
        plan.gone = [bind for one in plan.removed for bind in one.binds if bind.bind_id not in used]
        return plan

    def discard(self, plan: ListenerPlan) -> None:
        """The configuration was refused: close what was opened for it."""
        for bind in plan.opened:
            self.binds.pop(bind.bind_id, None)
            bind.close()
        for listener in plan.listeners.values():
            if listener.state == OPENING:
                listener.move("refused")

    def adopt(self, plan: ListenerPlan) -> None:
        """The configuration is the active one from here on. ``plan.gone`` is still read, until ``close`` is called."""
        for name, listener in plan.listeners.items():
            if listener.state == OPENING:
                listener.move("committed")
            config = plan.configs[name]
            if config.tcp_backlog_size != listener.config.tcp_backlog_size:
                for bind in listener.binds:
                    bind.set_backlog(config)
            listener.config = config
        for listener in plan.removed:
            listener.move("removed")
            self.draining.append(listener)
        self.active = plan.listeners

    def refuse_new(self, binds: Iterable[Bind]) -> None:
        for bind in binds:
            if not bind.of_unit:  # the socket unit's copy would ignore them for good
                bind.refuse_new()

    def take_new(self) -> None:
        """New handshakes are answered on every active listener, whatever another process has done to its sockets."""
        for listener in self.active.values():
            if listener.state == ACTIVE:
                for bind in listener.binds:
                    bind.take_new()

    def close(self, binds: Iterable[Bind]) -> None:
        """Give these up: no worker reads them any more."""
        for bind in binds:
            bind.close()
            self.binds.pop(bind.bind_id, None)

    def drained(self, listeners: Iterable[Listener]) -> None:
        """The drain time of these is up."""
        for listener in listeners:
            if listener.state == DRAINING:
                listener.move("drain time is up")
                self.draining.remove(listener)

    def stop(self, listeners: Iterable[Listener]) -> list[Bind]:
        """They are to accept nothing new any more, though the configuration has them; returns their binds."""
        stopped: list[Bind] = []
        for listener in listeners:
            if listener.state == ACTIVE:
                listener.move("stopped")
                self.draining.append(listener)
                stopped += listener.binds
        return stopped

    def grow(self, workers: int) -> None:
        """Have a socket for each of so many workers. Raises ``ListenError``; then there may be more than before."""
        for listener in self.active.values():
            if listener.state == ACTIVE:
                for bind in listener.binds:
                    bind.grow(listener.config, workers)
        self.workers = max(workers, 1)

    def close_all(self) -> None:
        self.close(list(self.binds.values()))
        for bind in self.not_taken():
            bind.close()

    def _same(self, name: str, bind: Bind) -> Listener | None:
        """The running listener of this name, when it is on this bind."""
        known = self.active.get(name)
        return known if known is not None and bind in known.binds else None

    def _open(self, name: str, config: Any, *, listen: bool) -> Bind:
        given = self._take_given(config)
        if given is not None:
            try:
                given.grow(config, self.workers)
            except ListenError as error:  # another user bound it: no socket can be added, so all share what there is
                given.shared = True
                _log.info("%s; its workers share %d sockets", error, len(given.sockets))
            return given
        in_use = next((one for one in self.active.values() if _same_address(one.config, config)), None)
        try:
            return open_bind(config, next(self._ids), self.workers, listen=listen)
        except ListenError as error:
            if in_use is None:
                raise
            raise ListenError(
                f"listener {name!r}: its socket options changed (or it takes the address of listener {in_use.name!r}), "
                f"and its address cannot be bound a second time; restart to apply it ({error})"
            ) from None

    def _take_given(self, config: Any) -> Bind | None:
        for bind in self._given:
            if _is_wanted(bind, config):
                self._given.remove(bind)
                bind.bind_id = next(self._ids)
                bind.key = BindKey.of(config)
                if config.address.WhichOneof("address") == "pipe" and not bind.address.startswith("@"):
                    bind.pipe_path = bind.address
                return bind
        return None


class ListenErrors(ListenError):
    """Several addresses that cannot be had; ``errors`` has a line for each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def _same_address(one: Any, other: Any) -> bool:
    return address_text(one.address) == address_text(other.address)


def _is_wanted(bind: Bind, config: Any) -> bool:
    address = config.address
    if address.WhichOneof("address") == "pipe":
        return bind.address == str(address.pipe.path)
    ip, _, port = bind.address.rpartition(":")
    wanted = address.socket_address
    if ip_address(ip.strip("[]")) != ip_address(wanted.address):
        return False
    return int(port) == wanted.port_value if wanted.port_value else bind.key.name == listener_name(config)
