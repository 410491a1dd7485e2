"""The configuration model: Envoy's protobuf descriptors, prepared for quick look-up, and the types by name.

The PyPI package xds-protos has about 600 modules; a type's module is imported when the type is first named. A type's
package says in which folder its module is, so nothing has to be listed or scanned for that.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from workerproxy.config.suggest import nearest

WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
ANY: Final = "google.protobuf.Any"
STRUCT: Final = "google.protobuf.Struct"
VALUE: Final = "google.protobuf.Value"
LIST_VALUE: Final = "google.protobuf.ListValue"
DURATION: Final = "google.protobuf.Duration"
TIMESTAMP: Final = "google.protobuf.Timestamp"
FIELD_MASK: Final = "google.protobuf.FieldMask"
WELL_KNOWN: Final = WRAPPERS | {ANY, STRUCT, VALUE, LIST_VALUE, DURATION, TIMESTAMP, FIELD_MASK}
TYPED_STRUCTS: Final = frozenset(("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"))
TYPE_URL_PREFIX: Final = "type.googleapis.com/"

_ROOTS: Final = ("envoy", "xds", "udpa")  # top-level packages of xds-protos that hold configuration types
_GOOGLE: Final = ("any", "duration", "empty", "field_mask", "struct", "timestamp", "wrappers")
_TYPE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_VERSION: Final = re.compile(r"v[0-9]+(?:alpha[0-9]*)?")
_STARTS: Final = re.compile(r"_globals\['_([A-Z0-9_]+)'\]\._serialized_start")


class Field:
    """What the builder and the checks ask about a field, taken from its descriptor once."""

    __slots__ = (
        "cpp_type", "descriptor", "full_name", "is_bytes", "is_map", "is_repeated", "message", "name", "oneof",
        "type_name",
    )  # fmt: skip

    def __init__(self, descriptor: FieldDescriptor) -> None:
        self.descriptor = descriptor
        self.name: str = descriptor.name
        self.full_name: str = descriptor.full_name
        self.cpp_type: int = descriptor.cpp_type
        self.is_bytes: bool = descriptor.type == FieldDescriptor.TYPE_BYTES
        self.message: Descriptor | None = descriptor.message_type
        self.type_name: str = descriptor.message_type.full_name if descriptor.message_type is not None else ""
        self.is_map: bool = self.message is not None and self.message.GetOptions().map_entry
        self.is_repeated: bool = descriptor.is_repeated and not self.is_map
        oneof = descriptor.containing_oneof
        self.oneof: str = "" if oneof is None or oneof.name == f"_{descriptor.name}" else oneof.name


class MessageType:
    """A message type: its fields by each name they may be written with."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.full_name: str = descriptor.full_name
        self.fields = [Field(field) for field in descriptor.fields]
        self.by_name = {field.name: field for field in self.fields}
        self.by_key = dict(self.by_name)
        for field in self.fields:
            self.by_key.setdefault(field.descriptor.json_name, field)

    @cached_property
    def message_class(self) -> type[Message]:
        return message_factory.GetMessageClass(self.descriptor)

    @property
    def short_name(self) -> str:
        return str(self.descriptor.name)


class Schema:
    """All message types that were asked for. One per load."""

    def __init__(self) -> None:
        self._types: dict[str, MessageType] = {}
        self._missing: set[str] = set()
        self._pool = descriptor_pool.Default()

    def of(self, descriptor: Descriptor) -> MessageType:
        """The prepared form of a message descriptor."""
        found = self._types.get(descriptor.full_name)
        if found is None:
            found = self._types[descriptor.full_name] = MessageType(descriptor)
        return found

    def of_message(self, message: Any) -> MessageType:
        """The type of a message."""
        return self.of(message.DESCRIPTOR)

    def find(self, full_name: str) -> MessageType | None:
        """The type of that full name (``envoy.config.core.v3.Node``), or None if Envoy's v3 API has none."""
        if full_name in self._types:
            return self._types[full_name]
        if full_name in self._missing:
            return None
        descriptor = self._find_descriptor(full_name)
        if descriptor is None:
            self._missing.add(full_name)
            return None
        return self.of(descriptor)

    def unpack(self, packed: Any) -> Message | None:
        """The message inside a ``google.protobuf.Any``; None when its type is unknown or it holds nothing."""
        _, _, name = packed.type_url.rpartition("/")
        found = self.find(name) if name else None
        if found is None:
            return None
        inner = found.message_class()
        inner.ParseFromString(packed.value)
        return inner

    def nearest_type(self, full_name: str) -> str:
        """The known type whose name is most like ``full_name``, or ``""``. Slow: it reads all modules."""
        own_name = full_name.rpartition(".")[2]
        candidates: dict[str, list[str]] = {}
        for module, package, marker in _message_markers():
            candidates.setdefault(marker, []).append(f"{module}:{package}")
        markers = [own_name.upper()] if own_name.upper() in candidates else []
        close = nearest(own_name, candidates)
        if close and close not in markers:
            markers.append(close)
        names = [name for marker in markers for place in candidates[marker] for name in self._names_in(place, marker)]
        same = [name for name in names if name.rpartition(".")[2] == own_name]
        return nearest(full_name, same or names) or (same[0] if len(same) == 1 else "")

    def _find_descriptor(self, full_name: str) -> Descriptor | None:
        if not _TYPE_NAME.fullmatch(full_name) or not _is_current(full_name):
            return None
        descriptor = self._in_pool(full_name)
        if descriptor is None:
            for module in _modules_for(full_name):
                importlib.import_module(module)
                descriptor = self._in_pool(full_name)
                if descriptor is not None:
                    break
        return descriptor

    def _in_pool(self, full_name: str) -> Descriptor | None:
        try:
            return self._pool.FindMessageTypeByName(full_name)
        except KeyError:
            return None

    def _names_in(self, place: str, marker: str) -> list[str]:
        module, _, package = place.partition(":")
        importlib.import_module(module)
        descriptors = importlib.import_module(module).DESCRIPTOR.message_types_by_name.values()
        return [d.full_name for d in descriptors if d.name.upper() == marker and d.full_name.startswith(package)]


def type_name_of(type_url: str) -> str:
    """``envoy.config.core.v3.Node`` from ``type.googleapis.com/envoy.config.core.v3.Node``."""
    return type_url.rpartition("/")[2]


def _is_current(full_name: str) -> bool:
    """Whether the name is of the v3 generation: xds-protos still has v2 types, Envoy no longer does."""
    if not full_name.startswith("envoy."):
        return True
    versions = [part for part in full_name.split(".") if _VERSION.fullmatch(part)]
    return bool(versions) and not versions[-1].startswith(("v1", "v2"))


def _package_folder(root: str) -> Path | None:
    spec = importlib.util.find_spec(root)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _modules_for(full_name: str) -> Iterator[str]:
    """The modules that may define a type: those in the folder that its package names, longest package first."""
    parts = full_name.split(".")
    if parts[:2] == ["google", "protobuf"]:
        yield from (f"google.protobuf.{name}_pb2" for name in _GOOGLE)
        return
    if parts[0] not in _ROOTS:
        return
    root = _package_folder(parts[0])
    for length in range(len(parts) - 1, 0, -1):
        folder = root.joinpath(*parts[1:length]) if root is not None else None
        if folder is not None and folder.is_dir():
            package = ".".join(parts[:length])
            yield from (f"{package}.{path.stem}" for path in sorted(folder.glob("*_pb2.py")))
            return


def _message_markers() -> Iterator[tuple[str, str, str]]:
    """(module, package, NAME IN CAPITALS) of every top-level message, read from the modules' text without importing."""
    for root_name in _ROOTS:
        root = _package_folder(root_name)
        if root is None:
            continue
        for path in sorted(root.rglob("*_pb2.py")):
            package = ".".join((root_name, *path.relative_to(root).parts[:-1]))
            if _is_current(f"{package}.x"):
                for marker in _STARTS.findall(path.read_text("utf-8")):
                    yield f"{package}.{path.stem}", package, marker
