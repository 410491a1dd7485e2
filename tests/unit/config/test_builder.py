"""Text to message: every form a value may have, and the exact words and place when it has none of them."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2

from workerproxy.config.builder import Builder
from workerproxy.config.json_text import read_json
from workerproxy.config.schema import Schema
from workerproxy.config.yaml_text import read_yaml

CLUSTER = "static_resources:\n  clusters:\n  - name: c\n"
AT = "static_resources.clusters[0]"


def build(text: str, *, allow_unknown: bool = False, is_json: bool = False) -> tuple[Any, Builder]:
    document = read_json("f.json", text) if is_json else read_yaml("f.yaml", text)
    assert document.root is not None, document.errors
    builder = Builder(document.file, Schema(), allow_unknown=allow_unknown)
    bootstrap = bootstrap_pb2.Bootstrap()
    builder.build(document.root, bootstrap)
    return bootstrap, builder


def cluster_with(line: str) -> Any:
    bootstrap, builder = build(f"{CLUSTER}    {line}\n")
    assert builder.errors == []
    return bootstrap.static_resources.clusters[0]


def errors_with(line: str) -> list[str]:
    _, builder = build(f"{CLUSTER}    {line}\n")
    return [str(error) for error in builder.errors]


def metadata_of(text: str) -> Any:
    bootstrap, builder = build(f"node:\n  metadata: {text}\n")
    assert builder.errors == []
    return bootstrap.node.metadata


# --- scalars -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["16", '"16"', "0x10", "020", "16.0", "1.6e1", '"1.6e1"', "{value: 16}"])
def test_forms_of_an_integer(text: str) -> None:
    assert cluster_with(f"max_requests_per_connection: {text}").max_requests_per_connection.value == 16


@pytest.mark.parametrize("text", ["1.5", "-1", "4294967296", '" 5"', "yes", "[5]", "x", '""', "1e40", "0x"])
def test_what_is_no_unsigned_integer(text: str) -> None:
    (error,) = errors_with(f"max_requests_per_connection: {text}")
    assert error.startswith(
        f"f.yaml:4:34: {AT}.max_requests_per_connection: wrong value; expected an integer from 0 to 4294967295, found "
    )


@pytest.mark.parametrize("text", ["true", "on", '"true"', '"T"', '"1"', '"yes"'])
def test_forms_of_true(text: str) -> None:
    assert cluster_with(f"respect_dns_ttl: {text}").respect_dns_ttl is True


def test_a_number_is_no_boolean() -> None:
    assert errors_with("respect_dns_ttl: 1") == [
        f"f.yaml:4:22: {AT}.respect_dns_ttl: wrong value; expected true or false, found the number 1; "
        f"did you mean true?"
    ]


@pytest.mark.parametrize(("text", "found"), [("5", "the number 5"), ("yes", "true"), ("017", "the number 15")])
def test_a_string_that_yaml_takes_for_something_else_wants_quotes(text: str, found: str) -> None:
    assert errors_with(f"alt_stat_name: {text}") == [
        f"f.yaml:4:20: {AT}.alt_stat_name: wrong value; expected a string, found {found}; put it in quotes"
    ]


@pytest.mark.parametrize("text", ["STRICT_DNS", "strict_dns", "Strict_Dns", "1", '"1"'])
def test_forms_of_an_enum(text: str) -> None:
    assert cluster_with(f"type: {text}").type == 1


def test_an_unknown_enum_value_names_all_and_the_nearest() -> None:
    assert errors_with("type: strict-dns") == [
        f"f.yaml:4:11: {AT}.type: unknown name; expected one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST, "
        "found 'strict-dns'; did you mean 'STRICT_DNS'?"
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("1.5", 1.5), ('"1.5"', 1.5), ("2", 2.0), ("{value: 3}", 3.0), (".5", 0.5)]
)
def test_forms_of_a_float(text: str, value: float) -> None:
    line = f"common_lb_config: {{healthy_panic_threshold: {{value: {text}}}}}" if "{" not in text else ""
    if line:
        assert cluster_with(line).common_lb_config.healthy_panic_threshold.value == value


@pytest.mark.parametrize("text", ["aGk=", "aGk", '"aGk="'])
def test_bytes_are_base64(text: str) -> None:
    text = f"upstream_bind_config: {{socket_options: [{{buf_value: {text}}}]}}"
    assert cluster_with(text).upstream_bind_config.socket_options[0].buf_value == b"hi"


def test_what_is_no_base64() -> None:
    line = "upstream_bind_config: {socket_options: [{buf_value: a!}]}"
    assert errors_with(line) == [
        f"f.yaml:4:57: {AT}.upstream_bind_config.socket_options[0].buf_value: wrong value; "
        "expected bytes in base64, found the string 'a!'"
    ]


# --- durations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [("5s", 5, 0), ("0.25s", 0, 250_000_000), ("0.000000001s", 0, 1), ('"5s"', 5, 0), ("{seconds: 5, nanos: 7}", 5, 7)],
)
def test_forms_of_a_duration(text: str, seconds: int, nanos: int) -> None:
    duration = cluster_with(f"connect_timeout: {text}").connect_timeout
    assert (duration.seconds, duration.nanos) == (seconds, nanos)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5ms", "0.005s"),
        ("5", "5s"),
        ("1.5", "1.5s"),
        ("250us", "0.00025s"),
        ("2m", "120s"),
        ("1h", "3600s"),
        ("1m30s", "90s"),
        ('"5 s"', "5s"),
        ("5sec", "5s"),
        ("2 min", "120s"),
        (".5s", "0.5s"),
        ("+5s", "5s"),
        ("1d", "86400s"),
    ],
)
def test_durations_in_other_forms_get_a_hint(text: str, hint: str) -> None:
    (error,) = errors_with(f"connect_timeout: {text}")
    assert error.startswith(f"f.yaml:4:22: {AT}.connect_timeout: wrong value; expected a duration such as 5s or 0.25s")
    assert error.endswith(f"; did you mean {hint}?")


@pytest.mark.parametrize("text", ["soon", '""', "5x", "[5s]", "true", "1.0000000001s"])
def test_what_is_no_duration(text: str) -> None:
    (error,) = errors_with(f"connect_timeout: {text}")
    assert "expected a duration such as 5s or 0.25s" in error


@pytest.mark.parametrize("text", ["-1s", "-0.5s", "{seconds: -1}", "{nanos: -1}"])
def test_durations_are_never_negative(text: str) -> None:
    (error,) = errors_with(f"connect_timeout: {text}")
    assert "expected a duration that is not negative" in error


@pytest.mark.parametrize("text", ["9223372037s", "315576000001s", "{nanos: 1000000000}"])
def test_durations_fit_64_bit_nanoseconds(text: str) -> None:
    (error,) = errors_with(f"connect_timeout: {text}")
    assert "expected a duration of at most 9223372036s" in error


# --- names, lists, maps, oneofs ----------------------------------------------------------------------------------


def test_names_in_snake_and_camel_case() -> None:
    assert cluster_with("altStatName: x").alt_stat_name == "x"
    assert cluster_with("alt_stat_name: x").alt_stat_name == "x"


def test_both_spellings_of_one_field() -> None:
    assert errors_with("altStatName: a\n    alt_stat_name: b") == [
        f"f.yaml:5:5: {AT}.alt_stat_name: the field is already given as 'altStatName'"
    ]


def test_two_fields_of_a_oneof() -> None:
    assert errors_with("type: STATIC\n    cluster_type: {name: x}") == [
        f"f.yaml:5:5: {AT}.cluster_type: cannot be set together with 'type': "
        "only one field of 'cluster_discovery_type' may be set"
    ]


def test_null_is_unset_and_takes_no_part_in_a_oneof() -> None:
    cluster = cluster_with("type: null\n    cluster_type: {name: x}\n    load_assignment:\n    filters:")
    assert cluster.cluster_type.name == "x"
    assert not cluster.HasField("load_assignment")
    assert len(cluster.filters) == 0


def test_one_value_stands_for_a_list_and_nested_lists_are_flat() -> None:
    for form in ("{max_connections: 5}", "[{max_connections: 5}]", "[[{max_connections: 5}], []]"):
        (threshold,) = cluster_with(f"circuit_breakers: {{thresholds: {form}}}").circuit_breakers.thresholds
        assert threshold.max_connections.value == 5


def test_null_in_a_list_is_an_empty_element() -> None:
    assert len(cluster_with("circuit_breakers: {thresholds: [null, {}]}").circuit_breakers.thresholds) == 2


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("hosts: []", "f.yaml:4:5: {at}: unknown field 'hosts' in {type}; a field of API v2; use load_assignment"),
        (
            "conect_timeout: 1s",
            "f.yaml:4:5: {at}: unknown field 'conect_timeout' in {type}; did you mean 'connect_timeout'?",
        ),
        ("Name: x", "f.yaml:4:5: {at}: unknown field 'Name' in {type}; did you mean 'name'?"),
        ("lb-policy: RANDOM", "f.yaml:4:5: {at}: unknown field 'lb-policy' in {type}; did you mean 'lb_policy'?"),
        (
            "thresholds: []",
            "f.yaml:4:5: {at}: unknown field 'thresholds' in {type}; it is a field of 'circuit_breakers'; "
            "did you mean to put it there?",
        ),
        (
            "clusters: []",
            "f.yaml:4:5: {at}: unknown field 'clusters' in {type}; it is a field of the enclosing StaticResources; "
            "is the indentation right?",
        ),
        (
            "admin: {}",
            "f.yaml:4:5: {at}: unknown field 'admin' in {type}; it is a field of the enclosing Bootstrap; "
            "is the indentation right?",
        ),
        (
            "<<: {a: b}",
            "f.yaml:4:5: {at}: unknown field '<<' in {type}; merge keys are not part of what Envoy reads; "
            "repeat the fields, or name a whole value with an alias",
        ),
        ("qqqq: 1", "f.yaml:4:5: {at}: unknown field 'qqqq' in {type}"),
    ],
)
def test_unknown_fields_get_the_best_hint(line: str, error: str) -> None:
    assert errors_with(line) == [error.format(at=AT, type="envoy.config.cluster.v3.Cluster")]


def test_unknown_names_are_warnings_when_allowed() -> None:
    bootstrap, builder = build(f"{CLUSTER}    nope: 1\n    type: NOPE\n    lb_policy: RANDOM\n", allow_unknown=True)
    assert builder.errors == []
    assert [warning.kind for warning in builder.warnings] == ["unknown", "unknown"]
    assert bootstrap.static_resources.clusters[0].lb_policy == 3


def test_all_errors_come_at_once() -> None:
    _, builder = build(f"nope: 1\n{CLUSTER}    type: 1.5\n    connect_timeout: 5m\n    load_assignment: 5\n  - 7\n")
    assert [(e.position.line, e.position.column) for e in builder.errors] == [(1, 1), (5, 11), (6, 22), (7, 22), (8, 5)]


# --- data without a schema ---------------------------------------------------------------------------------------


def test_a_struct_keeps_what_yaml_said() -> None:
    struct = metadata_of("{a: 1, b: yes, c: null, d: [x, 1.5], e: {f: 4294967296}}")
    assert struct.fields["a"].number_value == 1
    assert struct.fields["b"].bool_value is True
    assert struct.fields["c"].HasField("null_value")
    assert [v.string_value for v in struct.fields["d"].list_value.values] == ["x", "1.5"]
    assert struct.fields["e"].struct_value.fields["f"].string_value == "4294967296"


def test_a_struct_from_json_keeps_its_floats() -> None:
    bootstrap, _ = build('{"node": {"metadata": {"a": 1.5}}}', is_json=True)
    assert bootstrap.node.metadata.fields["a"].number_value == 1.5


def test_a_struct_is_a_mapping() -> None:
    _, builder = build("node: {metadata: 5}")
    assert str(builder.errors[0]) == "f.yaml:1:18: node.metadata: wrong value; expected a mapping, found the number 5"


# --- Any -----------------------------------------------------------------------------------------------------------

LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"


def any_of(config: str) -> tuple[Any, list[str]]:
    bootstrap, builder = build(f"admin:\n  access_log:\n  - typed_config: {config}\n")
    return bootstrap.admin.access_log[0].typed_config, [str(error) for error in builder.errors]


def test_type_decides_and_may_stand_anywhere() -> None:
    packed, errors = any_of(f'{{path: /x, "@type": {LOG}}}')
    assert errors == []
    assert packed.type_url == LOG
    from envoy.extensions.access_loggers.file.v3 import file_pb2

    log = file_pb2.FileAccessLog()
    assert packed.Unpack(log)
    assert log.path == "/x"


def test_a_well_known_type_in_any_stands_under_value() -> None:
    packed, errors = any_of('{"@type": type.googleapis.com/google.protobuf.Duration, value: 5s}')
    assert errors == []
    assert packed.TypeName() == "google.protobuf.Duration"


@pytest.mark.parametrize("url", ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"])
def test_a_typed_struct_is_what_it_describes(url: str) -> None:
    config = f'{{"@type": type.googleapis.com/{url}, type_url: {LOG}, value: {{path: /x}}}}'
    packed, errors = any_of(config)
    assert errors == []
    assert packed == any_of(f'{{"@type": {LOG}, path: /x}}')[0]


def test_errors_inside_a_typed_struct_have_their_place() -> None:
    config = f'{{"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: {LOG}, value: {{pat: /x}}}}'
    (error,) = any_of(config)[1]
    assert error.startswith("f.yaml:3:167: admin.access_log[0].typed_config.value: unknown field 'pat' in ")
    assert error.endswith("; did you mean 'path'?")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (
            "{path: /x}",
            "f.yaml:3:19: {at}: wrong value; expected a mapping with '@type': "
            "type.googleapis.com/<type name>, found a mapping",
        ),
        ("5", "f.yaml:3:19: {at}: wrong value; expected a mapping with '@type', found the number 5"),
        (
            '{"@type": envoy.extensions.access_loggers.file.v3.FileAccessLog}',
            "f.yaml:3:29: {at}: wrong value; expected a type such as type.googleapis.com/<full name>, found the string "
            "'envoy.extensions.access_loggers.file.v3.FileAccessLog'; did you mean '" + LOG + "'?",
        ),
        (
            '{"@type": ' + LOG + "s}",
            "f.yaml:3:29: {at}: no such type in Envoy's API v3: "
            "'envoy.extensions.access_loggers.file.v3.FileAccessLogs'; did you mean '" + LOG + "'?",
        ),
        (
            '{"@type": type.googleapis.com/envoy.config.accesslog.v2.FileAccessLog}',
            "f.yaml:3:29: {at}: no such type "
            "in Envoy's API v3: 'envoy.config.accesslog.v2.FileAccessLog'; did you mean '" + LOG + "'?",
        ),
        ('{"@type": type.googleapis.com/os.path}', "f.yaml:3:29: {at}: no such type in Envoy's API v3: 'os.path'"),
        (
            '{"@type": type.googleapis.com/xds.type.v3.TypedStruct, value: {}}',
            "f.yaml:3:19: {at}: wrong value; expected a mapping with 'type_url' and 'value', found a mapping",
        ),
    ],
)
def test_types_that_cannot_be(config: str, error: str) -> None:
    assert any_of(config)[1] == [error.format(at="admin.access_log[0].typed_config")]


def test_typed_metadata_keeps_its_typed_structs() -> None:
    inner = f'{{"@type": type.googleapis.com/xds.type.v3.TypedStruct, type_url: {LOG}, value: {{path: /x}}}}'
    cluster = cluster_with(f"metadata: {{typed_filter_metadata: {{a: {inner}}}}}")
    assert cluster.metadata.typed_filter_metadata["a"].TypeName() == "xds.type.v3.TypedStruct"
