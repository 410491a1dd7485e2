"""Supported or refused: what is set and read by nobody is said, at its place; nothing is ignored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import workerproxy
from tests.unit.config.documents import cluster, document, listener, with_cluster, with_hcm
from tests.unit.config.loading import assert_loads, errors_of, warnings_of
from workerproxy.config.options import Options
from workerproxy.config.schema import Schema
from workerproxy.config.support_check import SupportTable
from workerproxy.config.supported import EXTENSION_POINTS, READ, SUPPORTED
from workerproxy.extensions.registry import Registry

WORD: Final = re.compile(r"[a-z][a-z_0-9]+")
NOT_YET = "is a valid Envoy {} but workerproxy does not support it yet"


def lines(*rows: str) -> str:
    return document(clusters=cluster()) + "\n".join(rows) + "\n"


def test_an_unread_field_is_an_error_at_its_key(tmp_path: Path) -> None:
    assert errors_of(
        tmp_path, lines("stats_config:", "  stats_matcher: {reject_all: true}", "stats_sinks:", "- name: x")
    ) == [
        f"f.yaml:4:1: stats_config: 'stats_config' {NOT_YET.format('field')}",
        f"f.yaml:6:1: stats_sinks: 'stats_sinks' {NOT_YET.format('field')}",
    ]


def test_what_is_inside_an_unread_field_is_not_reported_too(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, lines("cluster_manager:", "  load_stats_config: {api_type: GRPC}"))
    assert error.startswith("f.yaml:4:1: cluster_manager: ")


def test_but_what_breaks_a_rule_inside_it_is(tmp_path: Path) -> None:
    errors = errors_of(tmp_path, lines("stats_sinks:", "- name: x", "hds_config: {api_type: 77}"))
    assert len(errors) == 3


def test_a_default_value_is_no_setting(tmp_path: Path) -> None:
    assert_loads(tmp_path, lines("enable_dispatcher_stats: false", "flags_path: ''", "stats_sinks: []"))


def test_fields_are_tolerated_on_request(tmp_path: Path) -> None:
    text = lines("stats_config: {}")
    assert warnings_of(tmp_path, text, Options(allow_unsupported=True)) == [
        f"f.yaml:4:1: stats_config: 'stats_config' {NOT_YET.format('field')}"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            with_cluster(", type: ORIGINAL_DST"),
            f"ORIGINAL_DST {NOT_YET.format('value')}; expected one of STATIC, STRICT_DNS, LOGICAL_DNS; "
            "of LOGICAL_DNS the first address alone, without Happy Eyeballs",
        ),
        (
            with_hcm(", codec_type: http2"),
            f"HTTP2 {NOT_YET.format('value')}; expected one of AUTO, HTTP1; AUTO finds HTTP/1 only",
        ),
        (document(listeners=listener(", bind_to_port: false")), f"false {NOT_YET.format('value')}; expected true"),
    ],
)
@pytest.mark.parametrize("options", [Options(), Options(allow_unsupported=True)])
def test_values_nothing_could_stand_in_for_are_never_tolerated(
    tmp_path: Path, text: str, error: str, options: Options
) -> None:
    (found,) = errors_of(tmp_path, text, options=options)
    assert found.endswith(f": {error}")


def test_supported_values_are_taken(tmp_path: Path) -> None:
    assert_loads(tmp_path, document(listeners=listener(", bind_to_port: true, enable_reuse_port: true")))


def test_load_balancers_are_those_that_have_a_module(tmp_path: Path) -> None:
    for extension in Registry().of("load_balancers"):
        assert_loads(tmp_path, with_cluster(f", lb_policy: {extension.module.LB_POLICY}"))
    (error,) = errors_of(tmp_path, with_cluster(", lb_policy: CLUSTER_PROVIDED"))
    assert f"CLUSTER_PROVIDED {NOT_YET.format('value')}; expected one of " in error


def test_an_extension_without_a_module_is_refused_and_not_looked_into(tmp_path: Path) -> None:
    buffer = "envoy.extensions.filters.http.buffer.v3.Buffer"
    router = "envoy.extensions.filters.http.router.v3.Router"
    filters = (
        f'[{{name: b, typed_config: {{"@type": type.googleapis.com/{buffer}, max_request_bytes: 5}}}}, '
        f'{{name: r, typed_config: {{"@type": type.googleapis.com/{router}}}}}]'
    )
    (error,) = errors_of(tmp_path, with_hcm(filters=filters))
    assert f"http_filters[0].typed_config: {buffer} {NOT_YET.format('extension')}; supported here: " in error
    assert router in error


def test_a_type_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    stdout = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
    errors = errors_of(tmp_path, with_hcm(filters=f'[{{name: r, typed_config: {{"@type": {stdout}}}}}]'))
    assert NOT_YET.format("extension") in errors[0]


def test_metadata_takes_any_type(tmp_path: Path) -> None:
    config = '{"@type": type.googleapis.com/envoy.config.core.v3.BindConfig, freebind: true}'
    assert_loads(tmp_path, with_cluster(f", metadata: {{typed_filter_metadata: {{mine: {config}}}}}"))


def test_deprecated_fields_are_warned_of_once_at_their_key(tmp_path: Path) -> None:
    text = with_cluster(", max_requests_per_connection: 5")
    (warning,) = warnings_of(tmp_path, text)
    assert warning.endswith(
        ": static_resources.clusters[0].max_requests_per_connection: 'max_requests_per_connection' is "
        "deprecated in Envoy"
    )
    assert warnings_of(tmp_path, text, Options(skip_deprecated_logs=True)) == []


def test_the_table_names_only_messages_and_fields_that_exist() -> None:
    types = Schema()
    for message, fields in SupportTable(Registry()).messages.items():
        kind = types.find(message)
        assert kind is not None, message
        assert set(fields) <= set(kind.by_name), message


def test_the_table_restricts_values_to_some_that_exist() -> None:
    types = Schema()
    for message, fields in SupportTable(Registry()).messages.items():
        for name, support in fields.items():
            kind = types.find(message)
            assert kind is not None
            enum = kind.by_name[name].descriptor.enum_type
            if support.values is not None and enum is not None:
                assert set(support.values) <= set(enum.values_by_name), f"{message}.{name}"


def test_every_field_said_to_be_read_is_named_in_code_that_could_read_it() -> None:
    package = Path(workerproxy.__file__).parent
    tables = {package / "config" / name for name in ("supported.py", "supported_routes.py")}
    words = {word for path in package.rglob("*.py") if path not in tables for word in WORD.findall(path.read_text())}
    unread = [
        f"{message}.{name}"
        for message, fields in SUPPORTED.items()
        for name, how in fields.items()
        if name not in words and how == READ
    ]  # a field with a remark may be read by nobody: the remark says why
    assert unread == []


def test_extension_points_are_fields_of_type_any() -> None:
    types = Schema()
    for field in EXTENSION_POINTS:
        message, _, name = field.rpartition(".")
        kind = types.find(message)
        assert kind is not None
        own = kind.by_name[name]
        value = own.message.fields_by_name["value"].message_type if own.is_map and own.message else own.message
        assert value is not None
        assert value.full_name == "google.protobuf.Any"
