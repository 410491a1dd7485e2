"""What the connection manager does to every request's headers before the filters see them, and to every response's.

Envoy's name: ``ConnectionManagerUtility`` (``mutateRequestHeaders``, ``mutateResponseHeaders``). Decides what the
configuration needs once; what a plain request costs is one look whether any rare header is there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from workerproxy.http import outcome
from workerproxy.worker.http import path_rules

if TYPE_CHECKING:
    from workerproxy.http.headers import RequestHeaders, ResponseHeaders
    from workerproxy.http.outcome import Outcome
    from workerproxy.worker.http.connection_manager import ConnectionManager
    from workerproxy.worker.http.request_id import RequestIds
    from workerproxy.worker.http.stream import ActiveStream

KEEP_UNCHANGED: Final = 0
REJECT_REQUEST: Final = 1
UNESCAPE_AND_REDIRECT: Final = 2
UNESCAPE_AND_FORWARD: Final = 3

OVERWRITE: Final = 0
APPEND_IF_ABSENT: Final = 1
PASS_THROUGH: Final = 2

_HOP_BY_HOP: Final = (b"upgrade", b"keep-alive", b"proxy-connection", b"transfer-encoding")
# Removed from what external clients send (header_sanitizing.rst); the second group only by an edge proxy.
_INTERNAL_ONLY: Final = (
    b"x-envoy-retriable-status-codes",
    b"x-envoy-retriable-header-names",
    b"x-envoy-retry-on",
    b"x-envoy-retry-grpc-on",
    b"x-envoy-max-retries",
    b"x-envoy-upstream-alt-stat-name",
    b"x-envoy-upstream-rq-timeout-ms",
    b"x-envoy-upstream-rq-per-try-timeout-ms",
    b"x-envoy-upstream-rq-timeout-alt-response",
    b"x-envoy-expected-rq-timeout-ms",
    b"x-envoy-force-trace",
    b"x-envoy-ip-tags",
    b"x-envoy-original-url",
    b"x-envoy-hedge-on-per-try-timeout",
)
_EDGE_ONLY: Final = (
    b"x-envoy-decorator-operation",
    b"x-envoy-downstream-service-cluster",
    b"x-envoy-downstream-service-node",
    b"x-envoy-original-path",
    b"x-envoy-original-host",
)
_ROUTER_CONTROL: Final = (b"x-envoy-upstream-stream-duration-ms",)
_RARE: Final = frozenset(
    (
        *_HOP_BY_HOP,
        *_INTERNAL_ONLY,
        *_EDGE_ONLY,
        *_ROUTER_CONTROL,
        b"te",
        b"x-envoy-internal",
        b"x-forwarded-client-cert",
        b"expect",
    )
)
# A referer Envoy lets pass: scheme, host, port and the rest, without a fragment; or a reference without a scheme.
_ABSOLUTE: Final = re.compile(
    rb"[A-Za-z][A-Za-z0-9+.-]*://@?(?:[A-Za-z0-9.-]+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,9}))?(?:[/?][^#\s]*#?)?"
)
_RELATIVE: Final = re.compile(rb"[!$%&'()*+,\-.0-9;=?@A-Z_a-z~]*(?:/[!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]*)?")
_SCHEMES: Final = (b"http", b"https")


@dataclass(frozen=True)
class HeaderSettings:
    """The connection manager's options that concern headers (``http_connection_manager.v3.HttpConnectionManager``)."""

    use_remote_address: bool = False
    xff_num_trusted_hops: int = 0
    skip_xff_append: bool = False
    append_x_forwarded_port: bool = False
    internal_unix_sockets: bool = False
    internal_networks: tuple[str, ...] = ()  # CIDRs; unless configured nobody is internal, as in Envoy 1.40
    generate_request_id: bool = True
    preserve_external_request_id: bool = False
    always_set_request_id_in_response: bool = False
    via: bytes = b""
    server_name: bytes = b"envoy"
    server_header_transformation: int = OVERWRITE
    scheme_to_overwrite: bytes = b""
    normalize_path: bool = False
    merge_slashes: bool = False
    escaped_slashes: int = KEEP_UNCHANGED
    strip_any_port: bool = False
    strip_matching_port: bool = False
    strip_trailing_dot: bool = False
    user_agent: bytes | None = None  # add_user_agent: the service cluster
    node_name: bytes = b""
    internal_only_headers: tuple[bytes, ...] = ()  # of the route table


class HeaderRules:
    """See the module. Shared by all streams of one configuration."""

    def __init__(self, settings: HeaderSettings, request_ids: RequestIds, port: int) -> None:
        self._settings = settings
        self._ids = request_ids
        self._networks = [ipaddress.ip_network(cidr, strict=False) for cidr in settings.internal_networks]
        self._edge = settings.use_remote_address
        self._generate_id = settings.generate_request_id
        self._port = port
        self._rare = _RARE.union(settings.internal_only_headers)
        self._rewrites_path = (
            settings.normalize_path or settings.merge_slashes or settings.escaped_slashes != KEEP_UNCHANGED
        )
        self._rewrites_host = settings.strip_any_port or settings.strip_matching_port or settings.strip_trailing_dot
        self._extras = bool(
            settings.append_x_forwarded_port
            or settings.scheme_to_overwrite
            or settings.user_agent is not None
            or settings.via
        )
        self.overwrite_server = settings.server_header_transformation == OVERWRITE
        self.server_name = settings.server_name
        self._append_server = settings.server_header_transformation == APPEND_IF_ABSENT
        self.response_extras = bool(settings.via or settings.always_set_request_id_in_response)

    # requests

    def check(self, headers: RequestHeaders, stream: ActiveStream) -> Outcome | None:
        """What Envoy refuses or normalises before anything reads the path; an outcome ends the request."""
        if not headers.authority and stream.message.host_missing:
            return outcome.MISSING_HOST
        path = headers.path
        if path[:1] != b"/" and headers.method != b"CONNECT":
            if not path:
                return outcome.MISSING_PATH
            stream.manager.stats.downstream_rq_non_relative_path += 1
            return outcome.ABSOLUTE_PATH_REJECTED
        if b"#" in path:
            stream.manager.stats.downstream_rq_failed_path_normalization += 1
            return outcome.PATH_NORMALIZATION_FAILED
        if self._rewrites_path:
            refused = self._normalize_path(headers, stream)
            if refused is not None:
                return refused
        if self._rewrites_host:
            self._normalize_host(headers)
        return None

    def _normalize_path(self, headers: RequestHeaders, stream: ActiveStream) -> Outcome | None:
        settings = self._settings
        redirect = False
        if settings.escaped_slashes != KEEP_UNCHANGED:
            unescaped = path_rules.unescape_slashes(headers.path)
            if unescaped != headers.path:
                headers.path = unescaped
                if settings.escaped_slashes == REJECT_REQUEST:
                    stream.manager.stats.downstream_rq_failed_path_normalization += 1
                    return outcome.PATH_NORMALIZATION_FAILED
                redirect = settings.escaped_slashes == UNESCAPE_AND_REDIRECT
        if settings.normalize_path:
            path = path_rules.canonical(headers.path)
            if path is None:
                stream.manager.stats.downstream_rq_failed_path_normalization += 1
                return outcome.PATH_NORMALIZATION_FAILED
            headers.path = path
        if settings.merge_slashes:
            headers.path = path_rules.merge_slashes(headers.path)
        if redirect:
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                stream.manager.stats.downstream_rq_failed_path_normalization += 1
                return outcome.PATH_NORMALIZATION_FAILED
            stream.manager.stats.downstream_rq_redirected_with_normalized_path += 1
            return outcome.NORMALIZED_PATH_REDIRECT
        return None

    def _normalize_host(self, headers: RequestHeaders) -> None:
        settings = self._settings
        if settings.strip_trailing_dot:
            headers.authority = path_rules.strip_trailing_dot(headers.authority)
        if settings.strip_any_port:
            headers.authority = path_rules.strip_port(headers.authority, None)
        elif settings.strip_matching_port:
            headers.authority = path_rules.strip_port(headers.authority, self._port)

    def apply(self, headers: RequestHeaders, stream: ActiveStream, manager: ConnectionManager) -> None:
        """``mutateRequestHeaders``: hop-by-hop headers go, forwarding headers come, the client's address is found."""
        if b"connection" in headers:
            headers.remove(b"connection")
        if b"referer" in headers and not _is_reference(headers.joined(b"referer") or b""):
            headers.remove(b"referer")
        rare = not self._rare.isdisjoint(headers)
        if rare:
            stream.rare_headers = True
            self._remove_hop_by_hop(headers)
        forwarded_for = headers.get(b"x-forwarded-for")
        if self._edge:
            internal = self._apply_remote_address(headers, stream, manager, forwarded_for)
        else:
            if b"x-forwarded-proto" not in headers:
                headers[b"x-forwarded-proto"] = b"http"
            internal = forwarded_for is not None and self._detect_from_xff(headers, stream)
        if self._extras:
            self._apply_transport(headers)
        if not headers.scheme:
            proto = headers.get(b"x-forwarded-proto", b"").lower()
            if not proto:
                stream.routable = False
            headers.scheme = proto if proto in _SCHEMES else b"http"
        if internal:
            stream.internal = True
            headers.replace(b"x-envoy-internal", b"true")
        else:
            if rare:
                self._clean_internal(headers)
            if self._edge:
                ip = _host_of(stream.downstream_remote_address)
                if ip:
                    headers.replace(b"x-envoy-external-address", ip.encode())
        if self._extras:
            self._apply_identity(headers)
        if self._generate_id:
            known = headers.get(b"x-request-id")
            if not known or (self._edge and not internal and not self._settings.preserve_external_request_id):
                headers.replace(b"x-request-id", self._ids.next())
            elif self._edge and not internal:
                headers[b"x-request-id"] = _without_trace_reason(known)

    def _remove_hop_by_hop(self, headers: RequestHeaders) -> None:
        for name in _HOP_BY_HOP:
            headers.remove(name)
        te = headers.joined(b"te")
        if te is not None:
            if any(token.strip() == b"trailers" for token in te.split(b",")):
                headers.replace(b"te", b"trailers")
            else:
                headers.remove(b"te")
        headers.remove(b"x-envoy-internal")
        headers.remove(b"x-forwarded-client-cert")  # forward_client_cert_details: SANITIZE

    def _apply_remote_address(
        self, headers: RequestHeaders, stream: ActiveStream, manager: ConnectionManager, forwarded_for: bytes | None
    ) -> bool:
        """``use_remote_address``: the peer is the client, or a proxy we trust to have named it."""
        settings = self._settings
        hops = settings.xff_num_trusted_hops
        internal = forwarded_for is None and manager.peer_is_internal(self)
        if hops and forwarded_for is not None:
            address, _ = _from_xff(headers.joined(b"x-forwarded-for") or b"", hops - 1)
            if address is not None:
                stream.downstream_remote_address = address
        if not settings.skip_xff_append:
            peer = manager.forwarded_address()
            if peer and forwarded_for is None:
                headers[b"x-forwarded-for"] = peer
            elif peer:
                _append(headers, b"x-forwarded-for", peer, b",")
        if not hops or b"x-forwarded-proto" not in headers:
            headers.replace(b"x-forwarded-proto", b"http")
        if settings.append_x_forwarded_port and not hops:
            headers.replace(b"x-forwarded-port", b"%d" % self._port)
        return internal

    def _detect_from_xff(self, headers: RequestHeaders, stream: ActiveStream) -> bool:
        """Not at the edge: believe x-forwarded-for (Envoy's default original-IP detection); says if internal."""
        address, single = _from_xff(headers.joined(b"x-forwarded-for") or b"", self._settings.xff_num_trusted_hops)
        if address is None:
            return False
        stream.downstream_remote_address = address
        return single and self.is_internal(_host_of(address))

    def is_internal(self, ip: str) -> bool:
        """Whether an address is internal (``internal_address_config``); what is no IP address is a Unix socket's."""
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return self._settings.internal_unix_sockets
        return any(address in network for network in self._networks if network.version == address.version)

    def _apply_transport(self, headers: RequestHeaders) -> None:
        """How the client came to us, where the configuration says more of it."""
        settings = self._settings
        if settings.append_x_forwarded_port and b"x-forwarded-port" not in headers:
            headers[b"x-forwarded-port"] = b"%d" % self._port
        if settings.scheme_to_overwrite:
            headers.scheme = settings.scheme_to_overwrite
            headers.replace(b"x-forwarded-proto", settings.scheme_to_overwrite)

    def _apply_identity(self, headers: RequestHeaders) -> None:
        """Who we are: what a client says in these headers is gone by now."""
        settings = self._settings
        if settings.user_agent is not None:
            headers.replace(b"x-envoy-downstream-service-cluster", settings.user_agent)
            if not headers.get(b"user-agent"):
                headers.replace(b"user-agent", settings.user_agent)
            if settings.node_name:
                headers.replace(b"x-envoy-downstream-service-node", settings.node_name)
        if settings.via:
            _append(headers, b"via", settings.via, b", ")

    def _clean_internal(self, headers: RequestHeaders) -> None:
        if self._edge:
            for name in _EDGE_ONLY:
                headers.remove(name)
        for name in _INTERNAL_ONLY:
            headers.remove(name)
        for name in self._settings.internal_only_headers:
            headers.remove(name)

    # responses

    def apply_to_response(self, headers: ResponseHeaders, request: RequestHeaders | None) -> None:
        """The rare part: via and x-request-id. The connection manager does date, server and hop-by-hop itself."""
        settings = self._settings
        if request is not None and (settings.always_set_request_id_in_response or b"x-envoy-force-trace" in request):
            request_id = request.get(b"x-request-id")
            if request_id is not None:
                headers.replace(b"x-request-id", request_id)
        if settings.via:
            _append(headers, b"via", settings.via, b", ")

    def set_server(self, headers: ResponseHeaders) -> None:
        """For the transformations other than OVERWRITE."""
        if self._append_server and b"server" not in headers:
            headers[b"server"] = self.server_name


def _append(headers: RequestHeaders | ResponseHeaders, name: bytes, value: bytes, separator: bytes) -> None:
    known = headers.joined(name)
    headers.replace(name, known + separator + value if known else value)


def _host_of(address: str) -> str:
    """``1.2.3.4`` of ``1.2.3.4:5``; "" for what is no IP address (a Unix socket's path)."""
    host, colon, _ = address.rpartition(":")
    if not colon or "/" in address:
        return ""
    return host.strip("[]")


def _from_xff(value: bytes, skip: int) -> tuple[str | None, bool]:
    """The address ``skip`` entries from the right as ``ip:0``, and whether it was the only one.

    Envoy: ``Utility::getLastAddressFromXFF``.
    """
    entries = value.split(b",")
    if skip >= len(entries):
        return None, False
    text = entries[-1 - skip].strip().decode("latin-1")
    single = len(entries) == 1
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None, single
    return (f"[{address}]:0" if address.version == 6 else f"{address}:0"), single


def _is_reference(value: bytes) -> bool:
    """Whether a referer is a URL or a relative reference as Envoy parses them (``Utility::Url``)."""
    absolute = _ABSOLUTE.fullmatch(value)
    if absolute is None:
        return _RELATIVE.fullmatch(value) is not None
    literal, port = absolute.groups()
    if literal is not None:
        try:
            ipaddress.ip_address(literal.decode())
        except ValueError:
            return False
    return port is None or int(port) <= 65535


def _without_trace_reason(request_id: bytes) -> bytes:
    """``pack_trace_reason``: the 15th character tells why a request is traced; an external client may not say."""
    return request_id if len(request_id) != 36 else request_id[:14] + b"4" + request_id[15:]
