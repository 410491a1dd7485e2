"""Which virtual host a request belongs to. The expectations of ``HOSTS`` are what Envoy 1.40 did."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.router.build import find, found, info_of, request, table_of
from workerproxy.worker.router.errors import RouteConfigError
from workerproxy.worker.router.route_table import RouteTable

# Virtual hosts by their domains; the name of each is its first domain.
DOMAINS = [
    ["exact.com", "Other.com"],
    ["exact.com:81"],
    ["*.foo.com"],
    ["*-bar.foo.com"],
    ["a.*"],
    ["a.b.*"],
    ["*"],
    ["[::1]"],
]
# Host -> the first domain of the virtual host that is found.
HOSTS = {
    "exact.com": "exact.com",
    "EXACT.com": "exact.com",
    "other.com": "exact.com",
    "exact.com:81": "exact.com:81",
    "exact.com:82": "*",
    "x.foo.com": "*.foo.com",
    "x.y.foo.com": "*.foo.com",
    "x-bar.foo.com": "*-bar.foo.com",
    "X-BAR.foo.com": "*-bar.foo.com",
    "-bar.foo.com": "*.foo.com",
    ".foo.com": "*",
    "foo.com": "*",
    "x.foo.com:80": "*",
    "a.c": "a.*",
    "a.b.c": "a.b.*",
    "a.foo.com": "*.foo.com",
    "a.": "*",
    "[::1]": "[::1]",
    "[::1]:80": "*",
}
HOSTS_WITHOUT_PORT = {
    "exact.com:82": "exact.com",
    "exact.com:81": "exact.com",
    "x.foo.com:80": "*.foo.com",
    "a.c:80": "a.*",
    "[::1]:80": "[::1]",
    "[::1]": "[::1]",
    "exact.com:": "exact.com",
}


def virtual_hosts(action: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": d[0], "domains": d, "routes": [{"match": {"prefix": "/"}, **action}]} for d in DOMAINS]


def hosts_table(**fields: Any) -> RouteTable:
    return table_of(virtual_hosts({"route": {"cluster": "c"}}), **fields)


@pytest.mark.parametrize(("host", "expected"), HOSTS.items())
def test_the_most_specific_domain_wins(host: str, expected: str) -> None:
    assert found(hosts_table(), request(host=host)).virtual_host_name == expected


@pytest.mark.parametrize(("host", "expected"), HOSTS_WITHOUT_PORT.items())
def test_the_port_is_left_out_when_asked_for(host: str, expected: str) -> None:
    made = hosts_table(ignore_port_in_host_matching=True)
    assert found(made, request(host=host)).virtual_host_name == expected


def test_a_host_that_no_domain_names_has_no_route() -> None:
    made = table_of(
        [{"name": "v", "domains": ["a"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]}]
    )
    assert made.only_route is None
    assert find(made, request(host="b")) is None
    assert find(table_of([]), request()) is None


@pytest.mark.parametrize(
    ("domains", "path"),
    [
        ([["a"], ["b", "A"]], "virtual_hosts[1].domains[1]"),
        ([["*.a", "*.A"]], "virtual_hosts[0].domains[1]"),
        ([["a.*"], ["a.*"]], "virtual_hosts[1].domains[0]"),
        ([["*"], ["*"]], "virtual_hosts[1].domains[0]"),
        ([["a", ""]], "virtual_hosts[0].domains[1]"),
        ([["a"], []], "virtual_hosts[1].domains"),
    ],
)
def test_a_domain_stands_once_in_a_table_and_is_not_empty(domains: list[list[str]], path: str) -> None:
    with pytest.raises(RouteConfigError) as caught:
        table_of([{"name": str(index), "domains": names} for index, names in enumerate(domains)])
    assert caught.value.path == path


def tls_table(requirement: str) -> RouteTable:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}
    return table_of([{"name": "v", "domains": ["*"], "require_tls": requirement, "routes": [route]}])


def test_required_tls_redirects_plain_requests() -> None:
    made = tls_table("ALL")
    headers = request("/a?b", "h:80")
    answer = found(made, headers).direct_response
    assert answer is not None
    assert (answer.status, answer.body) == (301, b"")
    answer.rewrite_path_header(headers, True)
    assert answer.response_headers(headers, info_of(headers)) == ((b"location", b"https://h:80/a?b"),)
    assert found(made, request(headers=[("x-forwarded-proto", "https")])).cluster == "c"


def test_tls_may_be_required_of_external_requests_only() -> None:
    made = tls_table("EXTERNAL_ONLY")
    assert found(made, request()).direct_response is not None
    assert found(made, request(headers=[("x-envoy-internal", "true")])).cluster == "c"
