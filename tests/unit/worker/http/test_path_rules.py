"""Path and host normalisation, compared with what Envoy did (``envoy_paths.txt``, ``envoy_hosts.txt``)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.proxy import OK, Proxy, head_and_body
from workerproxy.worker.http import path_rules

HERE = Path(__file__).parent
BOTH: dict[str, Any] = {"normalize_path": True, "merge_slashes": True}
ESCAPED = {"reject": "REJECT_REQUEST", "redirect": "UNESCAPE_AND_REDIRECT", "forward": "UNESCAPE_AND_FORWARD"}
# The names in envoy_paths.txt and envoy_hosts.txt.
PATHS: dict[str, dict[str, Any]] = {
    "none": {},
    "normalize": {"normalize_path": True},
    "merge": {"merge_slashes": True},
    "both": BOTH,
    **{name: {"path_with_escaped_slashes_action": action} for name, action in ESCAPED.items()},
    **{f"{name} both": {"path_with_escaped_slashes_action": action, **BOTH} for name, action in ESCAPED.items()},
}
HOSTS: dict[str, dict[str, Any]] = {
    "any": {"strip_any_host_port": True},
    "match": {"strip_matching_host_port": True},
    "dot": {"strip_trailing_host_dot": True},
    "any dot": {"strip_any_host_port": True, "strip_trailing_host_dot": True},
    "match dot": {"strip_matching_host_port": True, "strip_trailing_host_dot": True},
    "keep": {},
}


def recorded(name: str) -> dict[str, list[tuple[str, str]]]:
    """(What is sent, what comes of it) for each configuration."""
    cases: dict[str, list[tuple[str, str]]] = defaultdict(list)
    sent = result = ""
    for line in (HERE / name).read_text().splitlines():
        text = line.strip().encode().decode("unicode_escape")
        if line.startswith("    "):
            for configuration in text.split("; "):
                cases[configuration].append((sent, result))
        elif line.startswith("  "):
            result = text
        elif not line.startswith("#"):
            sent = text
    return cases


def outcome(proxy: Proxy, target: str = "/", host: str = "h") -> tuple[str, str]:
    """Target and host the origin gets, or a status with its location and no host."""
    client = proxy.client()
    client.send(f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode("latin-1"))
    if answer := client.take():
        first, fields, _ = head_and_body(answer)
        status = first.split()[1].decode()
        return f"{status} {fields.get(b'location', b'').decode('latin-1')}".strip(), ""
    first, fields, _ = head_and_body(proxy.origin().take())
    proxy.origin().send(OK)
    client.fin()
    return first.removeprefix(b"GET ").removesuffix(b" HTTP/1.1").decode("latin-1"), fields[b"host"].decode()


@pytest.mark.parametrize("name", PATHS)
def test_targets_become_what_they_become_in_envoy(name: str) -> None:
    proxy = Proxy(hcm=PATHS[name])
    cases = recorded("envoy_paths.txt")[name]
    assert len(cases) > 60
    assert [(target, outcome(proxy, target)[0]) for target, _ in cases] == cases


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_become_what_they_become_in_envoy(name: str) -> None:
    proxy = Proxy(hcm=HOSTS[name])
    cases = recorded("envoy_hosts.txt")[name]
    assert len(cases) > 10
    for host, expected in cases:
        target, got = outcome(proxy, host=host)
        assert (host, target, got) == (host, "/", expected)


LETTERS = '/.\\%2eEfF5cC07ab;?~|"<\xe9 '
paths = st.text(st.sampled_from(LETTERS), max_size=30).map(lambda text: b"/" + text.encode("latin-1"))


@given(paths)
def test_normalising_twice_is_normalising_once(path: bytes) -> None:
    once = path_rules.canonical(path)
    if once is not None:
        assert path_rules.canonical(once) == once


@given(paths)
def test_no_dot_segment_is_left(path: bytes) -> None:
    once = path_rules.canonical(path)
    if once is not None:
        segments = once.partition(b"?")[0].lower().replace(b"%2e", b".").split(b"/")
        assert b"." not in segments
        assert b".." not in segments
        assert once.startswith(b"/")


@given(paths)
def test_merging_twice_is_merging_once_and_keeps_the_query(path: bytes) -> None:
    once = path_rules.merge_slashes(path)
    assert path_rules.merge_slashes(once) == once
    assert once.partition(b"?")[1:] == path.partition(b"?")[1:]
    raw = once.partition(b"?")[0]
    assert b"//" not in raw or raw == b"//"


@given(paths)
def test_unescaping_leaves_no_escaped_slash_and_keeps_the_query(path: bytes) -> None:
    once = path_rules.unescape_slashes(path)
    raw, mark, query = once.partition(b"?")
    assert (mark, query) == path.partition(b"?")[1:]
    assert raw.count(b"/") + raw.count(b"\\") >= path.partition(b"?")[0].count(b"/")
    if b"%25" not in path and b"%%" not in path and not any(b"%" + c in path for c in (b"%", b"2%", b"5%")):
        assert b"%2f" not in raw.lower()
        assert b"%5c" not in raw.lower()


@pytest.mark.parametrize(
    ("authority", "port", "expected"),
    [
        (b"h:80", 80, b"h"),
        (b"h:80", 81, b"h:80"),
        (b"h:80", None, b"h"),
        (b"[::1]:80", None, b"[::1]"),
        (b"h:x", None, b"h:x"),
        (b"", None, b""),
    ],
)
def test_stripping_ports(authority: bytes, port: int | None, expected: bytes) -> None:
    assert path_rules.strip_port(authority, port) == expected
