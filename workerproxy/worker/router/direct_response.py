"""Routes that are answered without an upstream: direct responses and redirects.

The router filter first rewrites the path (as the access log then shows it), then answers with ``status``, ``body`` and
``response_headers``. Envoy's names: ``DirectResponseEntry``, ``RedirectConfig``, ``Http::Utility::newUri``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from workerproxy.http.data_source import DataSourceError, read_data_source
from workerproxy.http.matchers import MatcherError, regex_rewrite
from workerproxy.worker.router.errors import RouteConfigError, at
from workerproxy.worker.router.rewrite import path_length, set_path

if TYPE_CHECKING:
    from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, RedirectAction

    from workerproxy.http.headers import Pair, RequestHeaders
    from workerproxy.http.regex import Rewrite
    from workerproxy.http.stream_info import StreamInfo

PathChange = Callable[[bytes], "bytes | None"]  # the new path, None to leave it

DEFAULT_MAX_BODY_BYTES: Final = 4096  # RouteConfiguration.max_direct_response_body_size_bytes
REDIRECT_STATUS: Final = (301, 302, 303, 307, 308)  # RedirectAction.RedirectResponseCode


class Target(NamedTuple):
    """The parts of a ``location``; b"" for those of the request."""

    scheme: bytes = b""
    host: bytes = b""
    port: bytes = b""  # with its colon
    path: bytes = b""
    strip_query: bool = False


class DirectResponse:
    """A fixed answer. 201 and 3xx have a ``location``, by default the request's own URI, as in Envoy."""

    __slots__ = ("_path_change", "_target", "_with_location", "body", "is_redirect", "status")

    def __init__(self, status: int, body: bytes, *, is_redirect: bool, target: Target, path: PathChange | None) -> None:
        self.status = status
        self.body = body
        self.is_redirect = is_redirect
        self._with_location = status == 201 or 300 <= status < 400
        self._target = target
        self._path_change = path

    def rewrite_path_header(self, headers: RequestHeaders, keep_original: bool) -> None:
        """Change the request's path as the redirect says; ``keep_original``: leave ``x-envoy-original-path``."""
        if self._path_change is not None:
            path = self._path_change(headers.path)
            if path is not None:
                set_path(headers, path, keep_original=keep_original)

    def response_headers(self, headers: RequestHeaders, info: StreamInfo) -> tuple[Pair, ...]:
        """What the answer has beside what every local reply has."""
        return ((b"location", location(self._target, headers)),) if self._with_location else ()


class TlsRedirect(DirectResponse):
    """``require_tls``: the same URI under https."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(301, b"", is_redirect=True, target=Target(), path=None)

    def response_headers(self, headers: RequestHeaders, info: StreamInfo) -> tuple[Pair, ...]:
        return ((b"location", b"https://%b%b" % (headers.authority, headers.path)),)


def direct_response(config: DirectResponseAction, max_body_bytes: int, path: str) -> DirectResponse:
    """From a ``DirectResponseAction``. Raises ``RouteConfigError``; ``path`` is where it stands."""
    if not 200 <= config.status < 600:
        raise RouteConfigError(at(path, "status"), f"{config.status} is not between 200 and 599")
    try:
        body = read_data_source(config.body, max_body_bytes)
    except DataSourceError as error:
        raise RouteConfigError(at(path, "body"), str(error)) from None
    return DirectResponse(config.status, body, is_redirect=False, target=Target(), path=None)


def redirect(config: RedirectAction, matched: bytes | None, path: str) -> DirectResponse:
    """From a ``RedirectAction``. ``matched`` is what its prefix rewrite replaces; None: all before the query."""
    target = Target(
        scheme=b"https" if config.https_redirect else config.scheme_redirect.encode(),
        host=config.host_redirect.encode(),
        port=b":%d" % config.port_redirect if config.port_redirect else b"",
        path=config.path_redirect.encode(),
        strip_query=config.strip_query,
    )
    status = REDIRECT_STATUS[config.response_code]
    change = _redirect_path(config, matched, path)
    return DirectResponse(status, b"", is_redirect=True, target=target, path=change)


def location(target: Target, headers: RequestHeaders) -> bytes:
    """The absolute URI a client is sent to."""
    scheme = target.scheme or headers.scheme
    host = target.host or _request_host(headers, scheme, target.port)
    keeps_query = b"?" in target.path  # a query of the redirect's own comes before the request's
    if not target.path:
        path = headers.path
    elif keeps_query:
        path = target.path
    else:
        _, mark, query = headers.path.partition(b"?")
        path = target.path + mark + query
    if not path.startswith(b"/"):
        path = b"/" + path
    if target.strip_query and not keeps_query:
        path = path.partition(b"?")[0]
    return b"%b://%b%b%b" % (scheme, host, target.port, path)


def _request_host(headers: RequestHeaders, scheme: bytes, port: bytes) -> bytes:
    """The request's host, without its port where that belongs to the old scheme or a new port comes."""
    host = headers.authority
    end = host.rfind(b"]:") + 1 if host.startswith(b"[") else host.rfind(b":")
    if end < 1:
        return host
    old_scheme = headers.get(b"x-forwarded-proto", b"")
    drop = bool(port)
    if scheme != old_scheme:
        drop = drop or (old_scheme, host[end:]) in ((b"https", b":443"), (b"http", b":80"))
    return host[:end] if drop else host


def _redirect_path(config: RedirectAction, matched: bytes | None, path: str) -> PathChange | None:
    if config.prefix_rewrite:
        replacement = config.prefix_rewrite.encode()
        return lambda p: replacement + p[path_length(p) if matched is None else len(matched) :]
    if not config.HasField("regex_rewrite"):
        return None
    try:
        rewrite = regex_rewrite(config.regex_rewrite)
    except MatcherError as error:
        raise RouteConfigError(at(path, "regex_rewrite"), str(error)) from None
    return _regex_path(rewrite)


def _regex_path(rewrite: Rewrite) -> PathChange:
    def rewritten(path: bytes) -> bytes | None:
        end = path_length(path)
        new = rewrite(path[:end])
        return new + path[end:] if new else None

    return rewritten
