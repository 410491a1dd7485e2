"""The filter manager: runs a stream through its HTTP filters. Envoy's names: ``FilterManager``, ``ActiveStreamFilter``.

The request passes the filters in order and ends at the router; the response passes them in reverse and ends at the
connection manager. Both ways are the same machine, a ``Direction``. A filter may stop its direction; what comes
after waits at that filter (up to the limit), is held back by back-pressure, or is swallowed by the filter, until it
says continue. A stream whose only filter is the router has no filter manager: what is not configured costs nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from workerproxy.extensions.base import (
    CONTINUE,
    STOP_ALL_AND_BUFFER,
    STOP_ALL_AND_WATERMARK,
    STOP_AND_WATERMARK,
    STOP_NO_BUFFER,
    Body,
)
from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
from workerproxy.http.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workerproxy.extensions.base import StreamFilter
    from workerproxy.worker.http.stream import ActiveStream

_log = logging.getLogger("workerproxy.filter")

# How a direction stands at one filter.
FLOWING: Final = 0
STOPPED: Final = 1  # the filter said stop; data and trailers still reach it, and nothing behind it
STOPPED_ALL: Final = 2  # nothing reaches it until it says continue
_STATE_NAMES: Final = ("flowing", "stopped", "stopped all")

HeadersT = TypeVar("HeadersT", bound=HeaderMap)
HeadersT_contra = TypeVar("HeadersT_contra", bound=HeaderMap, contravariant=True)


class Sink(Protocol[HeadersT_contra]):
    """Where a direction ends, and who is asked for back-pressure or told of an overflow."""

    def headers(self, headers: HeadersT_contra, end_stream: bool) -> None: ...

    def data(self, chunks: list[bytes], end_stream: bool) -> None: ...

    def trailers(self, trailers: HeaderMap) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def overflow(self) -> None: ...


class Stop(Generic[HeadersT]):
    """One filter in one direction: its hooks, whether it has stopped, and what waits there."""

    __slots__ = (
        "added_trailers",
        "buffer",
        "end",
        "headers_done",
        "on_data",
        "on_headers",
        "on_trailers",
        "paused",
        "state",
        "trailers",
        "watermark",
    )

    def __init__(
        self,
        on_headers: Callable[[HeadersT, bool], int],
        on_data: Callable[[Body, bool], int],
        on_trailers: Callable[[HeaderMap], int],
    ) -> None:
        self.on_headers = on_headers
        self.on_data = on_data
        self.on_trailers = on_trailers
        self.state = FLOWING
        self.headers_done = False  # the headers went on to the next filter
        self.buffer: Body | None = None
        self.trailers: HeaderMap | None = None
        self.end = False  # what waits here is the end of the message
        self.watermark = False  # over the limit means back-pressure, not an error
        self.paused = False
        self.added_trailers: HeaderMap | None = None

    def __repr__(self) -> str:
        return f"<Stop {_STATE_NAMES[self.state]} buffered={self.buffer.size if self.buffer else 0}>"


class Direction(Generic[HeadersT]):
    """One way through the filters. Every method takes the index of the first filter to pass."""

    __slots__ = ("_limit", "_message_headers", "_sink", "over", "stops")

    def __init__(self, stops: list[Stop[HeadersT]], sink: Sink[HeadersT], limit: int) -> None:
        self.stops = stops
        self._sink = sink
        self._limit = limit  # bytes one filter may keep
        self._message_headers: HeadersT | None = None
        self.over = False  # replaced by a local reply, or the stream is gone: nothing moves any more

    def headers(self, headers: HeadersT, end_stream: bool, index: int = 0) -> None:
        self._message_headers = headers
        while index < len(self.stops):
            stop = self.stops[index]
            status = stop.on_headers(headers, end_stream)
            if self.over:
                return
            if status != CONTINUE:
                stop.state = STOPPED_ALL if status in (STOP_ALL_AND_BUFFER, STOP_ALL_AND_WATERMARK) else STOPPED
                stop.watermark = status == STOP_ALL_AND_WATERMARK
                stop.end = end_stream
                return
            stop.headers_done = True
            index += 1
            if stop.buffer is not None:  # the filter gave the message a body, or put one in front of it
                body, stop.buffer = stop.buffer, None
                self.headers(headers, False, index)
                if not self.over:
                    self.data(body, end_stream, index)
                return
        self._sink.headers(headers, end_stream)

    def data(self, data: Body, end_stream: bool, index: int = 0) -> None:
        while index < len(self.stops):
            stop = self.stops[index]
            if stop.state == STOPPED_ALL:
                stop.end = end_stream
                self._keep(stop, data)
                return
            status = stop.on_data(data, end_stream)
            if self.over:
                return
            if status != CONTINUE:
                stop.state = STOPPED
                stop.end = end_stream
                if status != STOP_NO_BUFFER:
                    stop.watermark = status == STOP_AND_WATERMARK
                    self._keep(stop, data)
                return
            if stop.state == STOPPED:  # it lets go of what it kept
                stop.end = end_stream
                if stop.buffer is None:
                    stop.buffer = data
                else:
                    stop.buffer.extend(data)
                self.resume(index)
                return
            if stop.buffer is not None:
                data.extend(stop.buffer)
                stop.buffer = None
            index += 1
            if stop.added_trailers is not None:
                trailers, stop.added_trailers = stop.added_trailers, None
                self.data(data, False, index)
                if not self.over:
                    self.trailers(trailers, index)
                return
        chunks = [chunk for chunk in data if chunk]  # an empty one would end a chunked body
        if chunks or end_stream:
            self._sink.data(chunks, end_stream)

    def trailers(self, trailers: HeaderMap, index: int = 0) -> None:
        while index < len(self.stops):
            stop = self.stops[index]
            if stop.state == STOPPED_ALL:
                stop.trailers = trailers
                return
            status = stop.on_trailers(trailers)
            if self.over:
                return
            if status != CONTINUE:
                stop.state = STOPPED
                stop.trailers = trailers
                return
            if stop.state == STOPPED or stop.buffer is not None:
                stop.trailers = trailers
                self.resume(index)
                return
            index += 1
        self._sink.trailers(trailers)

    def resume(self, index: int) -> None:
        """Filter ``index`` said continue: pass on what waits there, headers first."""
        stop = self.stops[index]
        # A filter that stopped everything has not seen its data and trailers yet.
        first = index if stop.state == STOPPED_ALL else index + 1
        body, stop.buffer = stop.buffer, None
        trailers = stop.trailers if stop.trailers is not None else stop.added_trailers
        stop.trailers = stop.added_trailers = None
        end, stop.end = stop.end, False
        stop.state = FLOWING
        if stop.paused:
            stop.paused = False
            self._sink.resume()
        if not stop.headers_done and self._message_headers is not None:
            stop.headers_done = True
            headers_end = end and not body and trailers is None
            self.headers(self._message_headers, headers_end, index + 1)
            if self.over or headers_end:
                return
        if body or (end and trailers is None):
            self.data(body or Body(), end and trailers is None, first)
        if trailers is not None and not self.over:
            self.trailers(trailers, first)

    def _keep(self, stop: Stop[HeadersT], data: Body) -> None:
        if stop.buffer is None:
            stop.buffer = Body(data)
        else:
            stop.buffer.extend(data)
        if stop.buffer.size <= self._limit:
            return
        if not stop.watermark:
            self._sink.overflow()
        elif not stop.paused:
            stop.paused = True
            self._sink.pause()

    def finish(self) -> None:
        """Nothing passes any more; whoever was paused goes on."""
        self.over = True
        for stop in self.stops:
            if stop.paused:
                stop.paused = False
                self._sink.resume()


class FilterManager:
    """Made per stream when there is more than the router."""

    __slots__ = ("_filters", "_request", "_response", "stream")

    def __init__(self, stream: ActiveStream, factories: Sequence[Callable[[], StreamFilter]]) -> None:
        self.stream = stream
        self._filters: list[StreamFilter] = []
        for index, factory in enumerate(factories):
            instance = factory()
            instance.callbacks = Callbacks(self, index)
            self._filters.append(instance)
        self._request: Direction[RequestHeaders] = Direction(
            [Stop(f.decode_headers, f.decode_data, f.decode_trailers) for f in self._filters],
            RequestSink(stream),
            stream.buffer_limit,
        )
        self._response = self._new_response()

    def _new_response(self) -> Direction[ResponseHeaders]:
        return Direction(
            [Stop(f.encode_headers, f.encode_data, f.encode_trailers) for f in reversed(self._filters)],
            ResponseSink(self.stream),
            self.stream.buffer_limit,
        )

    # the request on its way up

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> None:
        self._run(self._request.headers, headers, end_stream)

    def decode_data(self, chunks: list[bytes], end_stream: bool) -> None:
        if not self._request.over:
            self._run(self._request.data, Body(chunks), end_stream)

    def decode_trailers(self, trailers: HeaderMap) -> None:
        if not self._request.over:
            self._run(self._request.trailers, trailers)

    # the response on its way down

    def encode_1xx_headers(self, headers: ResponseHeaders) -> bool:
        """Whether the informational response may go on to the client."""
        return all(instance.encode_1xx_headers(headers) == CONTINUE for instance in reversed(self._filters))

    def encode_headers(self, headers: ResponseHeaders, end_stream: bool) -> None:
        self._run(self._response.headers, headers, end_stream)

    def encode_data(self, chunks: list[bytes], end_stream: bool) -> None:
        if not self._response.over:
            self._run(self._response.data, Body(chunks), end_stream)

    def encode_trailers(self, trailers: HeaderMap) -> None:
        if not self._response.over:
            self._run(self._response.trailers, trailers)

    def _run(self, step: Callable[..., None], *arguments: Any) -> None:
        """A filter that raises costs its stream, whoever's event it was that called it."""
        try:
            step(*arguments)
        except Exception:
            _log.exception("internal error in a filter of %r", self.stream)
            self.stream.on_fault()

    # what filters ask for

    def continue_decoding(self, index: int) -> None:
        way = self._request
        if not way.over and way.stops[index].state != FLOWING:
            self._run(way.resume, index)
            self.stream.flush()

    def continue_encoding(self, index: int) -> None:
        way = self._response
        place = len(way.stops) - 1 - index
        if not way.over and way.stops[place].state != FLOWING:
            self._run(way.resume, place)
            self.stream.flush()

    def request_stop(self, index: int) -> Stop[RequestHeaders]:
        return self._request.stops[index]

    def response_stop(self, index: int) -> Stop[ResponseHeaders]:
        return self._response.stops[len(self._filters) - 1 - index]

    # the stream's turns

    def begin_local_reply(self) -> None:
        """The request stops where it is; the reply passes the response's filters from the start."""
        self._request.finish()
        self._response.finish()
        self._response = self._new_response()

    def destroy(self) -> None:
        self._request.finish()
        self._response.finish()
        for instance in self._filters:
            try:
                instance.on_destroy()
            except Exception:
                _log.exception("internal error in on_destroy of %r", instance)


class RequestSink:
    """The router, at the end of the request's way."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ActiveStream) -> None:
        self._stream = stream

    def headers(self, headers: RequestHeaders, end_stream: bool) -> None:
        self._stream.router.decode_headers(headers, end_stream)

    def data(self, chunks: list[bytes], end_stream: bool) -> None:
        self._stream.router.send_data(chunks, end_stream)

    def trailers(self, trailers: HeaderMap) -> None:
        self._stream.router.decode_trailers(trailers)

    def pause(self) -> None:
        self._stream.pause_downstream()

    def resume(self) -> None:
        self._stream.resume_downstream()

    def overflow(self) -> None:
        self._stream.on_request_too_large()


class ResponseSink:
    """The connection manager, at the end of the response's way."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ActiveStream) -> None:
        self._stream = stream

    def headers(self, headers: ResponseHeaders, end_stream: bool) -> None:
        self._stream.send_headers(headers, end_stream)

    def data(self, chunks: list[bytes], end_stream: bool) -> None:
        self._stream.send_data(chunks, end_stream)

    def trailers(self, trailers: HeaderMap) -> None:
        self._stream.send_trailers(trailers)

    def pause(self) -> None:
        self._stream.router.pause_response()

    def resume(self) -> None:
        self._stream.router.resume_response()

    def overflow(self) -> None:
        self._stream.on_response_too_large()


class Callbacks:
    """``FilterCallbacks`` of one filter of one stream."""

    __slots__ = ("_index", "_manager")

    def __init__(self, manager: FilterManager, index: int) -> None:
        self._manager = manager
        self._index = index

    @property
    def stream_info(self) -> ActiveStream:
        return self._manager.stream

    def continue_decoding(self) -> None:
        self._manager.continue_decoding(self._index)

    def continue_encoding(self) -> None:
        self._manager.continue_encoding(self._index)

    def send_local_reply(
        self,
        status: int,
        body: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        details: str = "",
        flag: int = 0,
    ) -> None:
        self._manager.stream.local_reply(Outcome(status, body, details, flag), tuple(headers))

    def decoding_buffer(self) -> Body | None:
        return self._manager.request_stop(self._index).buffer

    def encoding_buffer(self) -> Body | None:
        return self._manager.response_stop(self._index).buffer

    def add_decoded_data(self, data: bytes) -> None:
        _add(self._manager.request_stop(self._index), data)

    def add_encoded_data(self, data: bytes) -> None:
        _add(self._manager.response_stop(self._index), data)

    def add_decoded_trailers(self) -> HeaderMap:
        trailers = self._manager.request_stop(self._index).added_trailers = HeaderMap()
        return trailers

    def add_encoded_trailers(self) -> HeaderMap:
        trailers = self._manager.response_stop(self._index).added_trailers = HeaderMap()
        return trailers

    def encode_1xx_headers(self, headers: ResponseHeaders) -> None:
        self._manager.stream.encode_1xx_headers(headers)

    def clear_route_cache(self) -> None:
        self._manager.stream.clear_route_cache()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> object:
        manager = self._manager
        return manager.stream.call_later(delay_s, lambda: manager._run(callback))


def _add(stop: Stop[RequestHeaders] | Stop[ResponseHeaders], data: bytes) -> None:
    if stop.buffer is None:
        stop.buffer = Body()
    stop.buffer.append(data)
