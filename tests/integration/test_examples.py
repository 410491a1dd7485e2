"""Every example configuration is started and asked something: an example that only loads may still not serve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.client import RawClient
from tests.support.ports import free_ports
from tests.support.workerproxy import start_workerproxy

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "conf" / "examples").glob("*.yaml"))
_ADMIN = "admin:\n  address:\n    socket_address: {{ address: 127.0.0.1, port_value: {} }}\n"
_REQUEST = b"GET /no/such/thing HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_serves_requests(example: Path, tmp_path: Path) -> None:
    """Its origins are not there, so the answer is a 503, a redirect or whatever the example gives by itself."""
    listener, admin = free_ports(2)
    text = example.read_text()
    text = re.sub(r"port_value: 10000\b", f"port_value: {listener}", text)
    text = text.replace("/tmp/workerproxy_access.log", str(tmp_path / "access.log"))
    if "\nadmin:" in "\n" + text:
        text = re.sub(r"port_value: 9901\b", f"port_value: {admin}", text)
    else:
        text = _ADMIN.format(admin) + text
    config = tmp_path / "example.yaml"
    config.write_text(text)
    process = start_workerproxy(config, admin)
    try:
        with RawClient(listener) as client:
            client.send(_REQUEST)
            assert client.read_to_close()
            answer = bytes(client.received)
        assert re.match(rb"HTTP/1\.1 (2|3|404|503)", answer), answer
        assert "Traceback" not in process.output()
    finally:
        process.stop()


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8
