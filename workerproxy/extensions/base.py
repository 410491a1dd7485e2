"""The interfaces an extension implements: HTTP filters, load balancers, access loggers.

One file is one feature; it is found by its configuration type. Envoy's names: ``Http::StreamFilter``,
``StreamDecoderFilterCallbacks``, ``Upstream::LoadBalancer``, ``AccessLog::Instance``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from workerproxy.http.headers import HeaderMap, RequestHeaders, ResponseHeaders
    from workerproxy.http.stream_info import StreamInfo

# What a filter answers to headers (Envoy: FilterHeadersStatus).
CONTINUE: Final = 0  # go on to the next filter
STOP_ITERATION: Final = 1  # later filters wait for continue_*; data still reaches this filter
STOP_ALL_AND_BUFFER: Final = 2  # nothing more reaches any filter until continue_*; data is buffered up to the limit
STOP_ALL_AND_WATERMARK: Final = 3  # the same, but at the limit the peer is read-disabled instead of answered
# ... and to data (FilterDataStatus): CONTINUE, or
STOP_AND_BUFFER: Final = 4  # keep this data; over the limit: 413 (request) or 500 (response)
STOP_AND_WATERMARK: Final = 5  # keep this data; over the limit: back-pressure
STOP_NO_BUFFER: Final = 6  # drop this data from the chain: the filter has taken it
# ... and to trailers (FilterTrailersStatus): CONTINUE or STOP_ITERATION.


class Body(list[bytes]):
    """A run of body chunks that a filter may edit in place. ``size`` is their total in bytes."""

    __slots__ = ()

    @property
    def size(self) -> int:
        return sum(map(len, self))

    def join(self) -> bytes:
        """The content in one piece."""
        return b"".join(self)

    def set(self, data: bytes) -> None:
        """Replace the content by ``data``; empty bytes leave nothing."""
        self[:] = [data] if data else []

    def drain(self) -> bytes:
        """Take everything out and return it."""
        data = b"".join(self)
        self.clear()
        return data


class FilterCallbacks(Protocol):
    """What a filter may ask of its stream. One object serves both directions of one filter."""

    @property
    def stream_info(self) -> StreamInfo: ...

    def continue_decoding(self) -> None:
        """Resume the request after this filter stopped it. Nothing happens when it is not stopped here."""

    def continue_encoding(self) -> None:
        """Resume the response after this filter stopped it."""

    def send_local_reply(
        self,
        status: int,
        body: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        details: str = "",
        flag: int = 0,
    ) -> None:
        """Answer in the proxy's name; the request goes no further. After the response began, the stream is reset."""

    def decoding_buffer(self) -> Body | None:
        """The request body kept so far by STOP_AND_BUFFER; may be edited."""

    def encoding_buffer(self) -> Body | None: ...

    def add_decoded_data(self, data: bytes) -> None:
        """Append to the request body from ``decode_headers`` or ``decode_trailers``, or between them while stopped."""

    def add_encoded_data(self, data: bytes) -> None: ...

    def add_decoded_trailers(self) -> HeaderMap:
        """Give the request trailers. Only from ``decode_data`` with ``end_stream``; at most once per stream."""

    def add_encoded_trailers(self) -> HeaderMap: ...

    def encode_1xx_headers(self, headers: ResponseHeaders) -> None:
        """Send an informational response (100 to 199, not 101) downstream."""

    def clear_route_cache(self) -> None:
        """Forget the route chosen so far: the router matches again with the headers as they are now."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> object:
        """Run ``callback`` once after ``delay_s`` seconds unless the stream is gone by then."""


class StreamFilter:
    """An HTTP filter: one instance per stream. Override what is needed; the defaults pass everything on.

    ``decode_*`` see the request on its way up, ``encode_*`` the response on its way down, in reverse order.
    ``end_stream`` is true on the last call of a direction that has no trailers.
    """

    __slots__ = ("callbacks",)

    callbacks: FilterCallbacks

    def decode_headers(self, headers: RequestHeaders, end_stream: bool) -> int:
        return CONTINUE

    def decode_data(self, data: Body, end_stream: bool) -> int:
        return CONTINUE

    def decode_trailers(self, trailers: HeaderMap) -> int:
        return CONTINUE

    def encode_1xx_headers(self, headers: ResponseHeaders) -> int:
        return CONTINUE

    def encode_headers(self, headers: ResponseHeaders, end_stream: bool) -> int:
        return CONTINUE

    def encode_data(self, data: Body, end_stream: bool) -> int:
        return CONTINUE

    def encode_trailers(self, trailers: HeaderMap) -> int:
        return CONTINUE

    def on_destroy(self) -> None:
        """The stream is over, however it ended. Called exactly once; release timers and references here."""


class AccessLogger(Protocol):
    """Writes one line (or record) per finished stream."""

    def log(self, info: StreamInfo) -> None:
        """Take what is wanted from ``info`` now: it does not outlive the call. Never blocks, never raises."""


class BalancedHost(Protocol):
    """What a load balancer knows of a host."""

    weight: int  # at least 1
    rq_active: int  # requests in flight from this worker


HostT = TypeVar("HostT", bound=BalancedHost)
HostT_co = TypeVar("HostT_co", covariant=True)


class LoadBalancer(Protocol[HostT_co]):
    """Chooses a host for each request; made anew for every host set, which is never empty and never changes."""

    def choose(self) -> HostT_co: ...
