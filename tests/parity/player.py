"""Plays one case against one proxy and tells what came of it."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from tests.parity.proxies import Stage
from tests.parity.script import Case, ClientStep
from tests.parity.verdict import Normaliser, log_line, messages
from tests.support.client import RawClient
from tests.support.processes import NotReadyError, wait_until

WAIT_S: Final = 3.0  # how long an awaited thing may take
QUIET_S: Final = 0.12  # how long "nothing more comes" takes
SEGMENT_S: Final = 0.02  # time given to a segment before the next
TAKES_LATE_S: Final = 0.6  # how much later than ``takes`` a script may end
TAKES_EARLY_S: Final = 0.03
PROBE: Final = b"GET /.probe HTTP/1.1\r\nhost: probe\r\n\r\n"


class Player:
    """One run of one case. ``patience`` stretches every wait: for a second run on a busy machine."""

    def __init__(self, case: Case, stage: Stage, patience: float = 1.0) -> None:
        self._case = case
        self._stage = stage
        self._patience = patience
        self._clients: list[RawClient] = []
        self._connections: list[str] = []  # what is said of each client connection's end
        self._bytewise = False
        self._missed: list[str] = []

    def play(self) -> list[str]:
        """The verdict, as lines."""
        case, stage = self._case, self._stage
        origin = stage.origins["origin"]
        for each in stage.origins.values():
            each.play(case.origin if each is origin else ())
        counters = stage.stats() if case.stats else {}
        log_offset = stage.log_size(case.listener)
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            self._connect(case.listener)
            for step in case.client:
                self._do(step)
            elapsed = time.monotonic() - started
            for client in self._clients:
                stack.callback(client.close)
                self._connections.append(self._end(client))
        lines = self._client_lines(elapsed)
        if case.end == "quiet" or any("open" not in text for text in self._connections):
            time.sleep(SEGMENT_S * self._patience)
        lines += self._origin_lines()
        lines += self._log_lines(log_offset)
        lines += self._stat_lines(counters)
        normalise = Normaliser(case.sent, self._port_names())
        return [normalise(line) for line in lines]

    def _connect(self, listener: str) -> None:
        self._clients.append(RawClient(self._stage.ports[listener], timeout_s=WAIT_S))

    def _do(self, step: ClientStep) -> None:
        client = self._clients[-1]
        if step.verb == "send":
            data = step.data.replace(b"{listener_port}", b"%d" % self._stage.ports[self._case.listener])
            client.send_bytewise(data) if self._bytewise else client.send(data)
            self._bytewise = False
        elif step.verb == "segment":
            time.sleep(SEGMENT_S * self._patience)
        elif step.verb == "bytewise":
            self._bytewise = True
        elif step.verb == "pause":
            time.sleep(float(step.word))
        elif step.verb == "connect":
            self._connect(step.word or self._case.listener)
        elif step.verb in ("fin", "reset", "leave"):
            {"fin": client.finish_sending, "reset": client.reset, "leave": client.close}[step.verb]()
            client.end = client.end or ("" if step.verb == "fin" else "left")
        elif not self._wait(client, step):
            self._missed.append(f"waited in vain for: {step.verb} {step.word}".rstrip())

    def _wait(self, client: RawClient, step: ClientStep) -> bool:
        origin = self._stage.origins["origin"]
        if step.verb in ("response", "head"):
            return client.read_response(head=step.verb == "head")
        if step.verb == "close":
            return client.read_to_close()
        if step.verb == "text":
            return client.read_text(step.word.encode())
        word = step.word.encode()
        try:
            if step.verb == "origin":
                origin.wait_requests(int(word), WAIT_S)
            else:
                wait_until(lambda: any(word in each.received for each in list(origin.connections)), WAIT_S)
        except NotReadyError:
            return False
        return True

    def _end(self, client: RawClient) -> str:
        """What is seen of the connection after the script."""
        if client.end == "left":
            return "left by the client"
        if self._case.end == "cut":
            return "closed by the proxy" if client.end else "not looked at"
        if self._case.end == "quiet":
            client.read_available(QUIET_S * self._patience)
            return "closed by the proxy" if client.end else "open"
        before = len(client.received)
        client.send(PROBE)
        if not client.read_response():
            return "closed by the proxy" if client.end else "open: the next request is not answered"
        response = client.received[before:]
        if not response:  # the close ended a response without a length that had begun before
            return "closed by the proxy"
        client.received = client.received[:before]
        status = response[9:12].decode("latin-1")
        if b"\r\nconnection: close\r\n" in response:
            return f"the next request is answered {status}, and that is the last"
        return f"open: the next request is answered {status}"

    def _client_lines(self, elapsed: float) -> list[str]:
        lines: list[str] = []
        for number, (client, end) in enumerate(zip(self._clients, self._connections, strict=True), 1):
            lines += [f"## client connection {number}: {end}", *messages(client.received)]
        takes = self._case.takes
        if takes:
            in_time = takes - TAKES_EARLY_S <= elapsed <= takes + TAKES_LATE_S * self._patience
            lines.append(f"took {takes} s" if in_time else f"took {elapsed:.2f} s instead of {takes} s")
        return lines + self._missed

    def _origin_lines(self) -> list[str]:
        lines: list[str] = []
        if self._case.origins == "shares":
            shares = sorted(origin.request_count() for origin in self._stage.origins.values())
            lines.append(f"requests at the origins: {shares}")
        for name, origin in self._stage.origins.items():
            ended = [connection.ended_by_peer() for connection in origin.connections]
            try:
                origin.release()
            except NotReadyError:
                lines.append(f"{name}: the proxy keeps its side open after FIN")
            for connection, closed in zip(origin.connections, ended, strict=True):
                if not connection.received or self._case.origins == "shares":
                    continue  # opened and not used: a question of speed, not of behaviour
                how = "by the script" if connection.closed_here else "by the proxy" if closed else "not"
                lines += [f"## {name} connection {connection.number}: closed {how}", *messages(connection.received)]
        return lines

    def _log_lines(self, offset: int) -> list[str]:
        if not self._case.log:
            return []
        stage, listener = self._stage, self._case.listener
        with contextlib.suppress(NotReadyError):
            wait_until(lambda: len(stage.log_lines(listener, offset)) >= self._case.log, 2.0 * self._patience)
        return ["## access log", *map(log_line, stage.log_lines(listener, offset))]

    def _stat_lines(self, before: dict[str, int]) -> list[str]:
        if not self._case.stats:
            return []
        after, last = self._stage.stats(), None
        while last != [after.get(name) for name in self._case.stats]:
            last = [after.get(name) for name in self._case.stats]
            time.sleep(0.03 * self._patience)
            after = self._stage.stats()
        return ["## stats", *(f"{name} +{after.get(name, 0) - before.get(name, 0)}" for name in self._case.stats)]

    def _port_names(self) -> dict[int, str]:
        names = {port: f"<{name} port>" for name, port in self._stage.ports.items()}
        names |= {client.port: f"<client port {i}>" for i, client in enumerate(self._clients, 1)}
        for name, origin in self._stage.origins.items():
            names |= {connection.port: f"<{name} connection {connection.number}>" for connection in origin.connections}
        return names
