"""``--print-config``: what is printed loads again to the same message."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.config.documents import document
from tests.unit.config.loading import load_text
from workerproxy.config.builder import Builder
from workerproxy.config.load import load
from workerproxy.config.options import Options
from workerproxy.config.printing import to_json, to_yaml
from workerproxy.config.schema import Schema
from workerproxy.config.yaml_text import read_yaml

REPOSITORY = Path(__file__).resolve().parents[3]


def reread(text: str) -> bootstrap_pb2.Bootstrap:
    read = read_yaml("f.yaml", text)
    assert read.root is not None, (text, read.errors)
    builder, bootstrap = Builder("f.yaml", Schema()), bootstrap_pb2.Bootstrap()
    builder.build(read.root, bootstrap)
    assert builder.errors == [], text
    return bootstrap


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf").rglob("*.yaml")), ids=lambda path: path.name)
def test_what_is_printed_loads_to_the_same(path: Path) -> None:
    bootstrap = load(Options(config_path=str(path))).bootstrap
    assert reread(to_yaml(bootstrap)) == bootstrap


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.text(st.characters(codec="utf-8"), max_size=3)
)
def test_any_string_survives(text: str, key: str) -> None:
    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.node.id = text
    bootstrap.node.metadata.update({text: [key, {key: text}]})
    assert reread(to_yaml(bootstrap)) == bootstrap


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "y",
        "5",
        "0x10",
        "017",
        "null",
        "~",
        "",
        " a",
        "a ",
        "a: b",
        "a #b",
        "- a",
        "*a",
        "&a",
        "!a",
        "%REQ(a)%",
        "'",
        '"',
        "1.5",
        "1e3",
        "2020-01-01",
        "1:30",
        "@a",
        "`a",
        "[a",
        "{a",
        "a\nb",
        "\t",
        "é",
        "<<",
        "=",
        "|",
        ">",
        "?",
        "a,b",
        "::1",
    ],
)
def test_strings_that_look_like_something_else(text: str) -> None:
    bootstrap = bootstrap_pb2.Bootstrap()
    bootstrap.node.id = text
    printed = to_yaml(bootstrap)
    assert reread(printed) == bootstrap
    if text:
        assert yaml.safe_load(printed)["node"]["id"] == text  # other YAML readers agree


def test_the_look_of_it() -> None:
    assert to_yaml(load(Options(config_yaml="node: {id: a, metadata: {b: [1, [c]]}}")).bootstrap) == (
        "node:\n  id: a\n  metadata:\n    b:\n    - 1.0\n    -\n      - c\n"
    )
    assert to_yaml(bootstrap_pb2.Bootstrap()) == "{}\n"


def test_as_json(tmp_path: Path) -> None:
    bootstrap = load_text(tmp_path, document()).bootstrap
    assert load_text(tmp_path, to_json(bootstrap), "f.json").bootstrap == bootstrap
    assert MessageToDict(bootstrap)["staticResources"]
