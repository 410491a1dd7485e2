"""Header field names the codecs know: common spellings, and which repeated fields become one value.

Envoy's names: ``Http::Headers``, ``CustomInlineHeaderRegistry``.
"""

from __future__ import annotations

from typing import Final

# Envoy keeps some fields in slots of their own ("inline headers"), where a repeated field is joined to the one before
# it with a bare comma; all others stay apart. The two lists are what the Envoy 1.40 binary was seen to join, and the
# x-envoy-* fields of its header_map.h that it strips before one could see it. Cookie and Set-Cookie are never joined.
JOINED_IN_REQUESTS: Final = frozenset(
    b"""
    accept accept-encoding access-control-request-headers access-control-request-method
    access-control-request-private-network authentication authorization cache-control cdn-loop connection
    content-encoding content-type expect grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match
    if-range if-unmodified-since keep-alive origin pragma proxy-connection proxy-status referer te transfer-encoding
    upgrade user-agent via x-client-trace-id x-envoy-attempt-count x-envoy-decorator-operation
    x-envoy-downstream-service-cluster x-envoy-downstream-service-node x-envoy-expected-rq-timeout-ms
    x-envoy-external-address x-envoy-force-trace x-envoy-hedge-on-per-try-timeout x-envoy-internal x-envoy-ip-tags
    x-envoy-is-timeout-retry x-envoy-max-retries x-envoy-original-host x-envoy-original-path x-envoy-original-url
    x-envoy-retriable-header-names x-envoy-retriable-status-codes x-envoy-retry-grpc-on x-envoy-retry-on
    x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response
    x-envoy-upstream-rq-timeout-ms x-envoy-upstream-stream-duration-ms x-forwarded-client-cert x-forwarded-for
    x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id
    """.split()
)
JOINED_IN_RESPONSES: Final = frozenset(
    b"""
    access-control-allow-credentials access-control-allow-headers access-control-allow-methods
    access-control-allow-origin access-control-allow-private-network access-control-expose-headers
    access-control-max-age age cache-control connection content-encoding content-type date etag expires grpc-message
    grpc-status keep-alive last-modified location proxy-connection proxy-status server transfer-encoding upgrade vary
    via x-envoy-attempt-count x-envoy-decorator-operation x-envoy-degraded x-envoy-immediate-health-check-fail
    x-envoy-ratelimited x-envoy-upstream-canary x-envoy-upstream-healthchecked-cluster x-envoy-upstream-service-time
    x-request-id
    """.split()
)

# A name is turned to lower case by one lookup. These spellings are there from the start, so that a peer that sends
# junk names until the table is full slows down nobody but itself.
_COMMON: Final = b"""
    Accept Accept-CH Accept-Charset Accept-Encoding Accept-Language Accept-Ranges Access-Control-Allow-Credentials
    Access-Control-Allow-Headers Access-Control-Allow-Methods Access-Control-Allow-Origin Access-Control-Expose-Headers
    Access-Control-Max-Age Access-Control-Request-Headers Access-Control-Request-Method Age Allow Alt-Svc Authorization
    Cache-Control CF-Ray Connection Content-Disposition Content-Encoding Content-Language Content-Length
    Content-Location Content-Range Content-Security-Policy Content-Type Cookie Date DNT ETag Expect Expires Forwarded
    From Host If-Match If-Modified-Since If-None-Match If-Range If-Unmodified-Since Keep-Alive Last-Modified Link
    Location Max-Forwards Origin P3P Pragma Priority Proxy-Authenticate Proxy-Authorization Proxy-Connection Range
    Referer Referrer-Policy Retry-After Save-Data Sec-CH-UA Sec-CH-UA-Mobile Sec-CH-UA-Platform Sec-Fetch-Dest
    Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User Sec-GPC Server Set-Cookie Strict-Transport-Security TE
    Timing-Allow-Origin Traceparent Tracestate Trailer Transfer-Encoding Upgrade Upgrade-Insecure-Requests User-Agent
    Vary Via WWW-Authenticate X-Amzn-Trace-Id X-Api-Key X-B3-TraceId X-Cache X-Content-Type-Options X-Forwarded-For
    X-Forwarded-Host X-Forwarded-Port X-Forwarded-Proto X-Frame-Options X-Powered-By X-Real-IP X-Request-ID
    X-Requested-With X-XSS-Protection
""".split()
MAX_KNOWN: Final = 2048  # spellings in one table
MAX_KNOWN_LENGTH: Final = 64  # bytes of a name that is kept; with MAX_KNOWN: at most about 300 KiB


def known_names() -> dict[bytes, bytes]:
    """A new table from spelling to lower-case name, with the common spellings in it."""
    names: dict[bytes, bytes] = {}
    for name in _COMMON:
        lower = name.lower()
        for spelling in (name, lower, name.title()):
            names[spelling] = lower
    return names
