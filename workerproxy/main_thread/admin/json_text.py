"""Protobuf messages as the JSON that Envoy's admin pages show: field names as in the schema."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format


def proto_json(message: Any, *, defaults: bool = False) -> Any:
    """A message as plain data; ``defaults``: also the fields that are not set."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=defaults
    )
