"""Sources: files of every kind, merging, overrides; and what cannot be read at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import text_format
from google.protobuf.json_format import MessageToJson

from tests.unit.config.documents import document
from tests.unit.config.loading import errors_of, load_text
from workerproxy.config.errors import ConfigErrors, render_json
from workerproxy.config.load import default_text, load
from workerproxy.config.options import Options


def test_all_formats_give_the_same_message(tmp_path: Path) -> None:
    from_yaml = load_text(tmp_path, document()).bootstrap
    as_json = MessageToJson(from_yaml)
    as_text = text_format.MessageToString(from_yaml)
    assert load_text(tmp_path, as_json, "f.json").bootstrap == from_yaml
    assert load_text(tmp_path, as_json, "f.conf").bootstrap == from_yaml
    assert load_text(tmp_path, document(), "f.YML").bootstrap == from_yaml
    assert load_text(tmp_path, document(), "no_extension").bootstrap == from_yaml
    assert load_text(tmp_path, as_text, "f.pb_text").bootstrap == from_yaml
    assert load_text(tmp_path, from_yaml.SerializeToString(), "f.pb").bootstrap == from_yaml


def test_config_yaml_is_merged_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("node: {id: a, cluster: b}\nstatic_resources:\n  clusters:\n  - name: one\n")
    override = "node: {id: c}\nstatic_resources: {clusters: [{name: two}]}"
    loaded = load(Options(config_path=str(path), config_yaml=override)).bootstrap
    assert (loaded.node.id, loaded.node.cluster) == ("c", "b")
    assert [cluster.name for cluster in loaded.static_resources.clusters] == ["one", "two"]


def test_positions_survive_the_merge(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("static_resources:\n  clusters:\n  - name: a\n    connect_timeout: 0s\n")
    override = "static_resources:\n  clusters:\n  - name: a\n    connect_timeout: 0s\n  - {name: ''}\n"
    with pytest.raises(ConfigErrors) as refused:
        load(Options(config_path=str(path), config_yaml=override))
    assert [(str(error.position).rpartition("/")[2], error.path) for error in refused.value.errors] == [
        ("--config-yaml:3:11", "static_resources.clusters[1].name"),
        ("--config-yaml:4:22", "static_resources.clusters[1].connect_timeout"),
        ("--config-yaml:5:12", "static_resources.clusters[2].name"),
        ("f.yaml:4:22", "static_resources.clusters[0].connect_timeout"),
    ]


def test_config_yaml_alone_is_a_configuration() -> None:
    assert load(Options(config_yaml="node: {id: x}")).bootstrap.node.id == "x"


def test_without_a_source_the_embedded_default_is_loaded() -> None:
    loaded = load(Options())
    assert loaded.name == "the embedded default"
    assert loaded.warnings == ()
    (listener,) = loaded.bootstrap.static_resources.listeners
    assert listener.address.socket_address.port_value == 10000
    assert "port_value: 10000" in default_text()


def test_the_command_line_names_the_node() -> None:
    options = Options(
        config_yaml="node: {id: a, cluster: b, locality: {zone: c}}",
        service_node="x",
        service_cluster="y",
        service_zone="z",
    )
    node = load(options).bootstrap.node
    assert (node.id, node.cluster, node.locality.zone) == ("x", "y", "z")


def test_unknown_fields_are_warnings_when_allowed(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, document(more="nope: 1\n"), options=Options(allow_unknown_static_fields=True))
    assert [warning.message for warning in loaded.warnings] == [
        "unknown field 'nope' in envoy.config.bootstrap.v3.Bootstrap"
    ]


def test_unknown_fields_of_a_binary_file(tmp_path: Path) -> None:
    data = bootstrap_pb2.Bootstrap().SerializeToString() + b"\xca\x3e\x01\x01"
    assert errors_of(tmp_path, data, "f.pb") == [
        "f.pb: unknown field number 1001 in envoy.config.bootstrap.v3.Bootstrap"
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def error_for(path: str) -> str:
        with pytest.raises(ConfigErrors) as refused:
            load(Options(config_path=path))
        return str(refused.value)

    assert error_for(str(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"
    assert error_for(f"{tmp_path}/none") == f"{tmp_path}/none: cannot be read: No such file or directory"
    assert "cannot be read" in error_for("a\0b")
    if os.geteuid():
        secret = tmp_path / "secret.yaml"
        secret.touch(mode=0)
        assert error_for(str(secret)) == f"{secret}: cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("f.yaml", b"a: 1\nb: \xff\n", "f.yaml:2:4: not UTF-8 text: byte 0xff"),
        ("f.yaml", b"\x7fELF\x00\x01", "f.yaml:1:1: not valid YAML: "),
        ("f.json", b"{", "f.json:1:2: not valid JSON: "),
        ("f.json", b"[]", "f.json:1:1: wrong value; expected a mapping with the fields of Bootstrap, found a list"),
        ("f.pb", b"\xff\xff", "f.pb: not a binary envoy.config.bootstrap.v3.Bootstrap"),
        ("f.pb_text", b"node {\n  nope: 1 }", "f.pb_text:2:3: not a valid text protobuf: "),
        ("f.pb_text", b"\xff", "f.pb_text:1:1: not UTF-8 text: byte 0xff"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, name: str, data: bytes, error: str) -> None:
    (found,) = errors_of(tmp_path, data, name)
    assert found.startswith(error)


def test_errors_are_in_the_order_of_the_file_and_none_comes_twice(tmp_path: Path) -> None:
    text = "node: &n {ids: 1}\nadmin: 5\nstatic_resources: {clusters: [{name: ''}], listeners: 7}\n"
    errors = errors_of(tmp_path, text)
    assert [error.split(":")[1] for error in errors] == ["1", "2", "3", "3"]
    assert len(set(errors)) == len(errors)


def test_errors_as_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as refused:
        load_text(tmp_path, "node:\n  idd: 1\n")
    (entry,) = refused.value.errors
    assert entry.as_dict() == {
        "kind": "unknown",
        "file": str(tmp_path / "f.yaml"),
        "line": 2,
        "column": 3,
        "path": "node",
        "message": "unknown field 'idd' in envoy.config.core.v3.Node",
        "expected": "",
        "found": "",
        "hint": "did you mean 'id'?",
    }
    assert '"line": 2' in render_json(refused.value.errors)


def test_loading_twice_gives_the_same(tmp_path: Path) -> None:
    assert load_text(tmp_path, document()).bootstrap == load_text(tmp_path, document()).bootstrap


def test_a_large_file_loads_in_reasonable_time(tmp_path: Path) -> None:
    import time

    rows = "".join(
        f"  - name: c{i}\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      cluster_name: c{i}\n"
        "      endpoints:\n      - lb_endpoints:\n        - endpoint:\n            address:\n"
        "              socket_address: {address: 127.0.0.1, port_value: 80}\n"
        for i in range(500)
    )
    begin = time.process_time()
    loaded = load_text(tmp_path, "static_resources:\n  clusters:\n" + rows)
    assert len(loaded.bootstrap.static_resources.clusters) == 500
    assert time.process_time() - begin < 3.0  # about 0.3 s on a quiet machine
