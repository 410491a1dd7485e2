"""``SubstitutionFormatString``: the message by which configurations give a format, as text or as JSON.

Used by access loggers, direct responses and local replies. Envoy's name: ``SubstitutionFormatStringUtils``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from workerproxy.http.data_source import read_data_source
from workerproxy.http.formatter import Formatter, compile_format
from workerproxy.http.json_format import compile_json_format

if TYPE_CHECKING:
    from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
    from google.protobuf.struct_pb2 import Struct, Value

# json_format_options.sort_properties changes nothing: Envoy sorts always (it is deprecated for that reason).
READS: Final[dict[str, frozenset[str]]] = {
    "envoy.config.core.v3.SubstitutionFormatString": frozenset(
        {
            "text_format",
            "json_format",
            "text_format_source",
            "omit_empty_values",
            "content_type",
            "json_format_options",
        }
    ),
    "envoy.config.core.v3.JsonFormatOptions": frozenset({"sort_properties"}),
}


def compile_substitution_format(config: SubstitutionFormatString, *, one_line: bool = False) -> Formatter:
    """Compile the format. Raises ``FormatError`` and ``DataSourceError``. ``one_line`` as in ``compile_format``."""
    kind = config.WhichOneof("format")
    if kind == "json_format":
        return compile_json_format(struct_value(config.json_format), omit_empty_values=config.omit_empty_values)
    if kind == "text_format":
        text = config.text_format
    else:
        text = read_data_source(config.text_format_source).decode("utf-8", "surrogateescape")
    return compile_format(text, omit_empty_values=config.omit_empty_values, one_line=one_line)


def struct_value(struct: Struct) -> dict[str, Any]:
    """A protobuf Struct as plain Python values."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_value(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind in (None, "null_value"):
        return None
    return getattr(value, kind)
