"""A proxy started on one of the configurations, with its origins: the stage on which cases are played."""

from __future__ import annotations

import contextlib
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.support.envoy import start_envoy
from tests.support.origin import Origin
from tests.support.ports import free_port
from tests.support.processes import Process, http_get
from tests.support.workerproxy import start_workerproxy

CONFIGS: Final = Path(__file__).with_name("configs")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)_port\}")


class Kind(NamedTuple):
    """One of the two programs: its name in reports and how it is started (config, admin port)."""

    name: str
    start: Callable[[Path, int], Process]


ENVOY: Final = Kind("envoy", start_envoy)
WORKERPROXY: Final = Kind("workerproxy", start_workerproxy)


class Blackhole:
    """A port that neither accepts nor refuses: its accept queue is full, so the kernel drops further SYNs."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        self.port: int = self._sockets[0].getsockname()[1]
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self._sockets.append(filler)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


class Stage:
    """A running proxy. ``ports``: placeholder -> port of this run; ``origins``: those whose placeholder begins so."""

    def __init__(self, kind: Kind, config: str) -> None:
        self.kind = kind
        self._folder = tempfile.TemporaryDirectory(prefix=f"parity-{kind.name}-")
        self.log_dir = Path(self._folder.name)
        self.origins: dict[str, Origin] = {}
        self._blackholes: list[Blackhole] = []
        self.ports: dict[str, int] = {}
        template = (CONFIGS / f"{config}.yaml").read_text()
        text = _PLACEHOLDER.sub(lambda match: str(self._port(match[1])), template)
        path = self.log_dir / f"{config}.yaml"
        path.write_text(text.replace("{log_dir}", str(self.log_dir)))
        self._port("admin")
        try:
            self.process = kind.start(path, self.ports["admin"])
        except BaseException:
            self._release()
            raise

    def _port(self, name: str) -> int:
        if name not in self.ports:
            if name.startswith("origin"):
                self.origins[name] = Origin()
                self.ports[name] = self.origins[name].port
            elif name.startswith("blackhole"):
                self._blackholes.append(Blackhole())
                self.ports[name] = self._blackholes[-1].port
            else:
                self.ports[name] = free_port()
        return self.ports[name]

    def stats(self) -> dict[str, int]:
        """Counters and gauges of the admin page."""
        status, text = http_get(self.ports["admin"], "/stats")
        if status != 200:
            raise AssertionError(f"/stats of {self.kind.name} answered {status}")
        pairs = (line.rsplit(": ", 1) for line in text.splitlines() if line and line[-1].isdigit())
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def log_size(self, listener: str) -> int:
        path = self.log_dir / f"{listener}.log"
        return path.stat().st_size if path.exists() else 0

    def log_lines(self, listener: str, offset: int) -> list[str]:
        """Whole lines the listener's access log got after ``offset`` bytes."""
        path = self.log_dir / f"{listener}.log"
        data = path.read_bytes()[offset:] if path.exists() else b""
        return data[: data.rfind(b"\n") + 1].decode("latin-1").splitlines()

    def close(self) -> None:
        self.process.stop()
        self._release()

    def _release(self) -> None:
        for origin in self.origins.values():
            origin.stop()
        for blackhole in self._blackholes:
            blackhole.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
