"""Filters for tests: each hook answers what the test says, and what was called is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.worker.fakes import Peer
from tests.unit.worker.proxy import Proxy
from workerproxy.extensions.base import CONTINUE, Body, StreamFilter
from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders

Hook = Any  # a status, or a callable with the hook's arguments that gives one (None: CONTINUE)


class Probe(StreamFilter):
    """One instance; ``calls`` is shared by all filters of a ``Stage``, in the order things happened."""

    def __init__(self, stage: Stage, name: str, hooks: dict[str, Hook]) -> None:
        self.stage = stage
        self.name = name
        self.hooks = hooks

    def _run(self, hook: str, shown: str, *arguments: object) -> int:
        self.stage.calls.append(f"{self.name}.{hook}{shown}")
        answer = self.hooks.get(hook, CONTINUE)
        if callable(answer):
            answer = answer(self, *arguments)
        return CONTINUE if answer is None else int(answer)

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
        return self._run("decode_headers", " end" if end_stream else "", headers, end_stream)

    def decode_data(self, data: Body, end_stream: bool) -> int:
        return self._run("decode_data", _shown(data, end_stream), data, end_stream)

    def decode_trailers(self, trailers: HeaderMap) -> int:
        return self._run("decode_trailers", "", trailers)

    def encode_1xx_headers(self, headers: ResponseHeaders) -> int:
        return self._run("encode_1xx_headers", f" {headers.status}", headers)

    def encode_headers(self, headers: ResponseHeaders, end_stream: bool) -> int:
        return self._run("encode_headers", f" {headers.status}" + (" end" if end_stream else ""), headers, end_stream)

    def encode_data(self, data: Body, end_stream: bool) -> int:
        return self._run("encode_data", _shown(data, end_stream), data, end_stream)

    def encode_trailers(self, trailers: HeaderMap) -> int:
        return self._run("encode_trailers", "", trailers)

    def on_destroy(self) -> None:
        self._run("on_destroy", "")


def _shown(data: Body, end_stream: bool) -> str:
    text = data.join().decode()
    return f" {text if len(text) < 20 else len(text)}" + (" end" if end_stream else "")


def answers(*statuses: Hook) -> Callable[..., Any]:
    """A hook that answers one after the other, the last one for good."""
    left = list(statuses)

    def answer(probe: Probe, *arguments: object) -> Any:
        status = left.pop(0) if len(left) > 1 else left[0]
        return status(probe, *arguments) if callable(status) else status

    return answer


class Stage:
    """A proxy whose filters are named by the keyword arguments: ``Stage(a={"decode_headers": STOP_ITERATION})``."""

    def __init__(self, proxy: dict[str, Any] | None = None, **filters: dict[str, Hook]) -> None:
        self.calls: list[str] = []
        self.made: dict[str, Probe] = {}
        self.proxy = Proxy(filters=[self._factory(name, hooks) for name, hooks in filters.items()], **(proxy or {}))
        self.client: Peer = self.proxy.client()

    def _factory(self, name: str, hooks: dict[str, Hook]) -> Callable[[], StreamFilter]:
        def make() -> StreamFilter:
            probe = self.made[name] = Probe(self, name, hooks)
            return probe

        return make

    def __getitem__(self, name: str) -> Probe:
        """The last instance of a filter."""
        return self.made[name]

    @property
    def origin(self) -> Peer:
        return self.proxy.origin()

    @property
    def reached_origin(self) -> bool:
        self.proxy.loop.run()
        return bool(self.proxy.network.upstream) and bool(self.origin.received)

    def take_calls(self, kind: str = "") -> list[str]:
        """What was called since the last time, of one kind of hook if given (``decode``)."""
        self.proxy.loop.run()
        calls, self.calls = self.calls, []
        return [call for call in calls if kind in call]

    def close(self) -> None:
        """Both peers leave; then nothing may be left."""
        self.client.fin()
        for peer in self.proxy.network.origins():
            peer.fin()
        self.proxy.assert_nothing_left()
        for name in self.made:
            assert self.made[name].stage is self
