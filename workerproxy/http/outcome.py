"""Every way a request ends: response flags, details, local replies, in one table.

The rows are Envoy's (``stream_info.h``, ``conn_manager_impl.cc``, ``router.cc``): what the client gets, what the access
log says, which flag is set. Code elsewhere names a row; it never writes a status or a details string of its own.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Response flags: bit -> (short, long), in Envoy's enum order, which is the order they are joined in.
LH: Final = 1 << 0
UH: Final = 1 << 1
UT: Final = 1 << 2
LR: Final = 1 << 3
UR: Final = 1 << 4
UF: Final = 1 << 5
UC: Final = 1 << 6
UO: Final = 1 << 7
NR: Final = 1 << 8
DI: Final = 1 << 9
FI: Final = 1 << 10
RL: Final = 1 << 11
UAEX: Final = 1 << 12
RLSE: Final = 1 << 13
DC: Final = 1 << 14
URX: Final = 1 << 15
SI: Final = 1 << 16
IH: Final = 1 << 17
DPE: Final = 1 << 18
UMSDR: Final = 1 << 19
RFCF: Final = 1 << 20
NFCF: Final = 1 << 21
DT: Final = 1 << 22
UPE: Final = 1 << 23
NC: Final = 1 << 24
OM: Final = 1 << 25
DF: Final = 1 << 26
DO: Final = 1 << 27
DR: Final = 1 << 28
UDO: Final = 1 << 29

FLAG_NAMES: Final[tuple[tuple[int, str, str], ...]] = (
    (LH, "LH", "FailedLocalHealthCheck"),
    (UH, "UH", "NoHealthyUpstream"),
    (UT, "UT", "UpstreamRequestTimeout"),
    (LR, "LR", "LocalReset"),
    (UR, "UR", "UpstreamRemoteReset"),
    (UF, "UF", "UpstreamConnectionFailure"),
    (UC, "UC", "UpstreamConnectionTermination"),
    (UO, "UO", "UpstreamOverflow"),
    (NR, "NR", "NoRouteFound"),
    (DI, "DI", "DelayInjected"),
    (FI, "FI", "FaultInjected"),
    (RL, "RL", "RateLimited"),
    (UAEX, "UAEX", "UnauthorizedExternalService"),
    (RLSE, "RLSE", "RateLimitServiceError"),
    (DC, "DC", "DownstreamConnectionTermination"),
    (URX, "URX", "UpstreamRetryLimitExceeded"),
    (SI, "SI", "StreamIdleTimeout"),
    (IH, "IH", "InvalidEnvoyRequestHeaders"),
    (DPE, "DPE", "DownstreamProtocolError"),
    (UMSDR, "UMSDR", "UpstreamMaxStreamDurationReached"),
    (RFCF, "RFCF", "ResponseFromCacheFilter"),
    (NFCF, "NFCF", "NoFilterConfigFound"),
    (DT, "DT", "DurationTimeout"),
    (UPE, "UPE", "UpstreamProtocolError"),
    (NC, "NC", "NoClusterFound"),
    (OM, "OM", "OverloadManagerTerminated"),
    (DF, "DF", "DnsResolutionFailed"),
    (DO, "DO", "DropOverload"),
    (DR, "DR", "DownstreamRemoteReset"),
    (UDO, "UDO", "UnconditionalDropOverload"),
)


def flags_text(flags: int, *, long: bool = False) -> str:
    """The flags as ``%RESPONSE_FLAGS%`` (or ``_LONG``) prints them: joined with ``,``, or ``-`` for none."""
    if not flags:
        return "-"
    return ",".join(name_long if long else short for bit, short, name_long in FLAG_NAMES if flags & bit)


class Outcome(NamedTuple):
    """A local reply: ``status`` to the client, ``body`` (text/plain), ``%RESPONSE_CODE_DETAILS%`` and response flag."""

    status: int
    body: bytes
    details: str
    flag: int = 0


ROUTE_NOT_FOUND: Final = Outcome(404, b"", "route_not_found", NR)
CLUSTER_NOT_FOUND: Final = Outcome(503, b"", "cluster_not_found", NC)
NO_HEALTHY_UPSTREAM: Final = Outcome(503, b"no healthy upstream", "no_healthy_upstream", UH)
PER_TRY_TIMEOUT: Final = Outcome(504, b"upstream request timeout", "upstream_per_try_timeout", UT)
RESPONSE_TIMEOUT: Final = Outcome(504, b"upstream request timeout", "response_timeout", UT)
UPSTREAM_MAX_STREAM_DURATION: Final = Outcome(
    504, b"upstream max stream duration reached", "upstream_max_stream_duration_reached", UMSDR
)
STREAM_IDLE_TIMEOUT: Final = Outcome(408, b"stream timeout", "stream_idle_timeout", SI)
REQUEST_TIMEOUT: Final = Outcome(408, b"request timeout", "request_overall_timeout")
REQUEST_HEADER_TIMEOUT: Final = Outcome(408, b"request header timeout", "request_header_timeout")
MAX_DURATION_TIMEOUT: Final = Outcome(408, b"downstream duration timeout", "max_duration_timeout")
MISSING_HOST: Final = Outcome(400, b"", "missing_host_header")
MISSING_PATH: Final = Outcome(404, b"", "missing_path_rejected")
ABSOLUTE_PATH_REJECTED: Final = Outcome(404, b"", "absolute_path_rejected")
PATH_NORMALIZATION_FAILED: Final = Outcome(400, b"", "path_normalization_failed")
NORMALIZED_PATH_REDIRECT: Final = Outcome(307, b"", "path_normalization_failed")
LOW_VERSION: Final = Outcome(426, b"Upgrade Required", "low_version", DPE)
UPGRADE_FAILED: Final = Outcome(403, b"", "upgrade_failed")
# A reload removed what the stream runs on, and it has not finished within the drain time.
ROUTE_REMOVED: Final = Outcome(503, b"the route was removed", "route_removed", LR)
CLUSTER_REMOVED: Final = Outcome(503, b"the cluster was removed", "cluster_removed", LR)
REQUEST_PAYLOAD_TOO_LARGE: Final = Outcome(413, b"Payload Too Large", "request_payload_too_large")
RESPONSE_PAYLOAD_TOO_LARGE: Final = Outcome(500, b"Internal Server Error", "response_payload_too_large")

# Details of endings that are no local reply.
VIA_UPSTREAM: Final = "via_upstream"
DIRECT_RESPONSE: Final = "direct_response"
DOWNSTREAM_REMOTE_DISCONNECT: Final = "downstream_remote_disconnect"


def invalid_request_header(name: bytes) -> Outcome:
    """The 503 for a header that the route would have given a value with CR, LF or NUL."""
    text = b"invalid header value for: " + name
    details = text.decode("latin-1").replace(" ", "_")
    return Outcome(503, text, f"filter_removed_required_request_headers{{{details}}}", DPE)


class ResetReason(NamedTuple):
    """Why an upstream stream was reset: Envoy's text (``resetReasonToString``) and the response flag it sets."""

    text: str
    flag: int


LOCAL_CONNECTION_FAILURE: Final = ResetReason("local connection failure", UF)
REMOTE_CONNECTION_FAILURE: Final = ResetReason("remote connection failure", UF)
CONNECTION_TIMEOUT: Final = ResetReason("connection timeout", UF)
CONNECTION_TERMINATION: Final = ResetReason("connection termination", UC)
LOCAL_RESET: Final = ResetReason("local reset", LR)
OVERFLOW: Final = ResetReason("overflow", UO)
REMOTE_RESET: Final = ResetReason("remote reset", UR)
PROTOCOL_ERROR: Final = ResetReason("protocol error", UPE)


def reset_before_response(reason: ResetReason, transport_failure: str = "") -> Outcome:
    """The 503 (502 for garbage) for an upstream that failed before its response headers.

    ``transport_failure`` is for the details only. Envoy: ``Router::onUpstreamReset``.
    """
    text = f"upstream connect error or disconnect/reset before headers. reset reason: {reason.text}"
    details = reason.text
    if transport_failure:
        details += f"|{transport_failure}"
    details = f"upstream_reset_before_response_started{{{details}}}".replace(" ", "_")
    return Outcome(502 if reason is PROTOCOL_ERROR else 503, text.encode(), details, reason.flag)
