"""Headers that have one value: what is appended to them is joined with a comma, others get a further field line.

Matchers and header mutations go by it. Envoy's name: inline headers (``INLINE_REQ_HEADERS`` in ``header_map.h``, and
the ones its extensions register); the lists were checked against Envoy 1.40.
"""

from __future__ import annotations

from typing import Final

_JOINED: Final = frozenset(
    b"content-type connection keep-alive proxy-connection proxy-status x-request-id transfer-encoding upgrade via "
    b"content-length x-envoy-attempt-count x-envoy-decorator-operation content-encoding cache-control".split()
)
JOINED_IN_REQUESTS: Final = _JOINED | frozenset(
    b"accept accept-encoding access-control-request-headers access-control-request-method authorization "
    b"expect grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match if-range if-unmodified-since "
    b"origin pragma referer te user-agent x-client-trace-id x-forwarded-client-cert x-forwarded-for x-forwarded-host "
    b"x-forwarded-port x-forwarded-proto x-envoy-downstream-service-cluster x-envoy-downstream-service-node "
    b"x-envoy-expected-rq-timeout-ms x-envoy-external-address x-envoy-force-trace x-envoy-hedge-on-per-try-timeout "
    b"x-envoy-internal x-envoy-ip-tags x-envoy-is-timeout-retry x-envoy-max-retries x-envoy-original-host "
    b"x-envoy-original-path x-envoy-original-url x-envoy-retriable-header-names x-envoy-retriable-status-codes "
    b"x-envoy-retry-grpc-on x-envoy-retry-on x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-per-try-timeout-ms "
    b"x-envoy-upstream-rq-timeout-alt-response x-envoy-upstream-rq-timeout-ms "
    b"x-envoy-upstream-stream-duration-ms".split()
)
JOINED_IN_RESPONSES: Final = _JOINED | frozenset(
    b"access-control-allow-credentials access-control-allow-headers access-control-allow-methods "
    b"access-control-allow-origin access-control-expose-headers access-control-max-age age date etag expires "
    b"grpc-message grpc-status last-modified location server vary x-envoy-degraded "
    b"x-envoy-immediate-health-check-fail x-envoy-ratelimited x-envoy-upstream-canary "
    b"x-envoy-upstream-healthchecked-cluster x-envoy-upstream-service-time".split()
)
