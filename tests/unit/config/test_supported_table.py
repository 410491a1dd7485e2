"""``docs/supported.md`` is what the code says."""

from __future__ import annotations

from pathlib import Path

from workerproxy.config.supported_table import render_supported
from workerproxy.extensions.registry import Registry

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "supported.md"


def test_the_document_is_up_to_date() -> None:
    hint = "run: python -m workerproxy --print-supported > docs/supported.md"
    assert DOCUMENT.read_text("utf-8") == render_supported(), hint


def test_it_names_every_extension_and_what_is_missing() -> None:
    text = render_supported()
    for extension in Registry().all():
        assert f"`{extension.config_type}`" in text
    assert "`transport_socket`" in text.partition("### envoy.config.listener.v3.FilterChain\n")[2].partition("###")[0]


def test_it_is_the_same_each_time() -> None:
    assert render_supported() == render_supported()
