"""Document tree -> protobuf message and marks, with every misfit reported at its place.

Walks the document along the message's descriptor, by the rules of protobuf's JSON reader in the mode Envoy uses it
(``json_internal::ParseMessage`` with legacy syntax): field names in snake_case or lowerCamelCase, ``null`` means
unset, a single value may stand for a list of one, nested lists are flattened, wrappers and durations may be written as
messages. ``@type`` decides what an ``Any`` holds, and a TypedStruct is replaced by what it describes.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

from workerproxy.config import scalars, schema
from workerproxy.config.document import LIST, MAP, NULL, NUMBER, STRING, Entry, Node, shorten
from workerproxy.config.errors import TYPE, UNKNOWN, ConfigError, Position
from workerproxy.config.marks import Mark, Path, render_path
from workerproxy.config.scalars import Misfit
from workerproxy.config.schema import Field, MessageType, Schema
from workerproxy.config.suggest import did_you_mean

_KEEPS_TYPED_STRUCTS: Final = "typed_filter_metadata"  # data for filters, not configuration of an extension
_V2_FIELDS: Final = {
    "envoy.config.cluster.v3.Cluster.hosts": "a field of API v2; use load_assignment",
    "envoy.config.cluster.v3.Cluster.tls_context": "a field of API v2; use transport_socket",
    "envoy.config.listener.v3.FilterChain.tls_context": "a field of API v2; use transport_socket",
    "envoy.config.route.v3.HeaderMatcher.regex_match": "a field of API v2; use string_match.safe_regex",
    "envoy.config.route.v3.RouteMatch.regex": "a field of API v2; use safe_regex",
    "envoy.config.route.v3.VirtualHost.require_ssl": "did you mean 'require_tls'?",
    "envoy.config.bootstrap.v3.Bootstrap.runtime": "a field of API v2; use layered_runtime",
}


class Builder:
    """Builds messages of one file. ``errors`` and ``warnings`` fill up while it works."""

    def __init__(self, file: str, types: Schema, *, allow_unknown: bool = False) -> None:
        self.file = file
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []
        self._schema = types
        self._unknown = self.warnings if allow_unknown else self.errors
        self._enclosing: list[MessageType] = []  # the types around the one being built

    def build(self, node: Node, message: Message, path: Path = None) -> Mark:
        """Fill ``message`` from ``node`` and return its marks. Never raises for what the document says."""
        mark = Mark(self.file, node.line, node.column)
        self._message(node, self._schema.of_message(message), message, mark, path)
        return mark

    # --- one message -------------------------------------------------------------------------------------------

    def _message(
        self, node: Node, kind: MessageType, message: Any, mark: Mark, path: Path, *, in_any: bool = False
    ) -> None:
        if node.kind != MAP:
            mark.failed = True
            self._misfit(node, path, Misfit(f"a mapping with the fields of {kind.short_name}"))
            return
        self._enclosing.append(kind)
        seen: dict[str, str] = {}
        for entry in node.value:
            field = kind.by_key.get(entry.key)
            if field is None:
                if not (in_any and entry.key == "@type"):
                    self._unknown_field(entry, kind, path)
                continue
            if entry.node.kind == NULL and field.type_name != schema.VALUE:
                continue
            if self._is_first(entry, field, seen, path):
                self._field(entry, field, message, mark, (path, field.name))
        self._enclosing.pop()

    def _is_first(self, entry: Entry, field: Field, seen: dict[str, str], path: Path) -> bool:
        slot = f"oneof {field.oneof}" if field.oneof else field.name
        earlier = seen.setdefault(slot, entry.key)
        if earlier == entry.key:
            return True
        at = Position(self.file, entry.line, entry.column)
        containing = field.descriptor.containing_type
        assert containing is not None
        if self._schema.of(containing).by_key[earlier] is field:
            message = f"the field is already given as {earlier!r}"
        else:
            message = f"cannot be set together with {earlier!r}: only one field of '{field.oneof}' may be set"
        self.errors.append(ConfigError(TYPE, at, render_path((path, field.name)), message))
        return False

    def _field(self, entry: Entry, field: Field, message: Any, mark: Mark, path: Path) -> None:
        if field.is_map:
            self._map(entry.node, field, message, mark, path)
        elif field.is_repeated:
            self._repeated(entry, field, getattr(message, field.name), mark, path)
        else:
            child = Mark(self.file, entry.node.line, entry.node.column, entry.line, entry.column)
            mark.put(field.name, child)
            if field.message is None:
                try:
                    setattr(message, field.name, scalars.read_scalar(entry.node, field.descriptor))
                except Misfit as misfit:
                    child.failed = True
                    self._misfit(entry.node, path, misfit)
            else:
                inner = getattr(message, field.name)
                inner.SetInParent()
                self._singular(entry.node, field, inner, child, path)

    def _repeated(self, entry: Entry, field: Field, values: Any, mark: Mark, path: Path) -> None:
        marks = mark.items(field.name)
        flattens = field.type_name not in (schema.VALUE, schema.LIST_VALUE)
        for index, item in enumerate(_items(entry.node, flattens)):
            where: Path = (path, f"[{index}]")
            child = Mark(self.file, item.line, item.column)
            if not index:  # what concerns the whole field is said at its key
                child.key_line, child.key_column = entry.line, entry.column
            marks.append(child)
            if field.message is None:
                values.append(self._item(item, field, child, where))
            else:
                inner = values.add()
                if item.kind != NULL or field.type_name == schema.VALUE:
                    self._singular(item, field, inner, child, where)

    def _item(self, node: Node, field: Field, mark: Mark, path: Path) -> Any:
        """One scalar of a list; what cannot be read leaves a zero there, so that items and marks stay in step."""
        zero = b"" if field.is_bytes else _ZERO[field.cpp_type]
        if node.kind == NULL:
            return zero
        try:
            return scalars.read_scalar(node, field.descriptor)
        except Misfit as misfit:
            mark.failed = True
            self._misfit(node, path, misfit)
            return zero

    def _map(self, node: Node, field: Field, message: Any, mark: Mark, path: Path) -> None:
        if node.kind != MAP:
            self._misfit(node, path, Misfit("a mapping"))
            return
        assert field.message is not None
        key_field, value_field = field.message.fields_by_name["key"], Field(field.message.fields_by_name["value"])
        values, marks = getattr(message, field.name), mark.entries(field.name)
        for entry in node.value:
            where: Path = (path, f"[{entry.key}]")
            child = Mark(self.file, entry.node.line, entry.node.column, entry.line, entry.column)
            try:
                key = scalars.read_map_key(entry.key, key_field)
                if value_field.message is None:
                    values[key] = (
                        _ZERO[value_field.cpp_type]
                        if entry.node.kind == NULL
                        else scalars.read_scalar(entry.node, value_field.descriptor)
                    )
                else:
                    inner = values[key]
                    if entry.node.kind != NULL or value_field.type_name == schema.VALUE:
                        self._singular(entry.node, value_field, inner, child, where)
                marks[str(key)] = child
            except Misfit as misfit:
                self._misfit(entry.node, where, misfit)

    def _singular(self, node: Node, field: Field, message: Any, mark: Mark, path: Path) -> None:
        """Fill a message that is the value of ``field``, by the kind of its type."""
        name = field.type_name
        if name in schema.WELL_KNOWN:
            self._well_known(node, field, message, mark, path)
        else:
            assert field.message is not None
            self._message(node, self._schema.of(field.message), message, mark, path)

    # --- types with a form of their own ------------------------------------------------------------------------

    def _well_known(self, node: Node, field: Field, message: Any, mark: Mark, path: Path) -> None:
        name = field.type_name
        try:
            if name == schema.ANY:
                keeps = path is not None and path[0] is not None and path[0][1] == _KEEPS_TYPED_STRUCTS
                self._any(node, message, mark, path, unwrap=not keeps)
            elif name in (schema.STRUCT, schema.VALUE, schema.LIST_VALUE):
                self._json(node, name, message)
            elif node.kind == MAP:
                self._message(node, self._schema.of_message(message), message, mark, path)
                if name == schema.DURATION:
                    scalars.check_duration(message.seconds, message.nanos)
            elif name == schema.DURATION:
                message.seconds, message.nanos = scalars.read_duration(node)
            elif name == schema.TIMESTAMP:
                message.seconds, message.nanos = scalars.read_timestamp(node)
            elif name == schema.FIELD_MASK:
                self._field_mask(node, message)
            else:
                message.value = scalars.read_scalar(node, message.DESCRIPTOR.fields_by_name["value"])
        except Misfit as misfit:
            mark.failed = True
            self._misfit(node, path, misfit)

    def _field_mask(self, node: Node, message: Any) -> None:
        try:
            message.FromJsonString(node.value if node.kind == STRING else "")
        except ValueError:
            raise Misfit("field names with commas between them") from None

    def _json(self, node: Node, name: str, message: Any) -> None:
        """Fill a Struct, ListValue or Value: data without a schema."""
        if name == schema.STRUCT:
            if node.kind != MAP:
                raise Misfit("a mapping")
            for entry in node.value:
                self._json(entry.node, schema.VALUE, message.fields[entry.key])
        elif name == schema.LIST_VALUE:
            if node.kind != LIST:
                raise Misfit("a list")
            for item in node.value:
                self._json(item, schema.VALUE, message.values.add())
        elif node.kind == MAP:
            message.struct_value.SetInParent()
            self._json(node, schema.STRUCT, message.struct_value)
        elif node.kind == LIST:
            message.list_value.SetInParent()
            self._json(node, schema.LIST_VALUE, message.list_value)
        elif node.kind == NULL:
            message.null_value = 0
        elif node.kind == NUMBER:
            message.number_value = float(node.value)
        elif node.kind == STRING:
            message.string_value = node.value
        else:
            message.bool_value = node.value

    def _any(self, node: Node, message: Any, mark: Mark, path: Path, *, unwrap: bool) -> None:
        if node.kind != MAP:
            raise Misfit("a mapping with '@type'")
        type_entry = next((entry for entry in node.value if entry.key == "@type"), None)
        if type_entry is None:
            if node.value:
                raise Misfit("a mapping with '@type': type.googleapis.com/<type name>")
            return
        kind = self._type(type_entry, path)
        if kind is None:
            mark.failed = True
            return
        if unwrap and kind.full_name in schema.TYPED_STRUCTS:
            self._typed_struct(node, message, mark, path)
            return
        inner = kind.message_class()
        if kind.full_name in schema.WELL_KNOWN:
            self._wrapped(node, kind, inner, mark, path)
        else:
            self._message(node, kind, inner, mark, path, in_any=True)
        message.type_url = type_entry.node.value
        message.value = inner.SerializeToString(deterministic=True)

    def _wrapped(self, node: Node, kind: MessageType, inner: Any, mark: Mark, path: Path) -> None:
        """A type that is not written as a mapping stands in an Any under the key ``value``."""
        for entry in node.value:
            if entry.key == "value":
                self._well_known(entry.node, _Holder(kind.full_name), inner, mark, (path, "value"))
            elif entry.key != "@type":
                self._unknown_field(entry, kind, path, ("value",))

    def _typed_struct(self, node: Node, message: Any, mark: Mark, path: Path) -> None:
        """Build what a TypedStruct describes: the same file as if its ``value`` stood there with its ``type_url``."""
        parts = {entry.key: entry for entry in node.value}
        type_entry = parts.get("type_url") or parts.get("typeUrl")
        if type_entry is None:
            raise Misfit("a mapping with 'type_url' and 'value'")
        kind = self._type(type_entry, (path, "type_url"), host_needed=False)
        if kind is None:
            mark.failed = True
            return
        inner = kind.message_class()
        value = parts.get("value")
        if value is not None and value.node.kind != NULL:
            self._message(value.node, kind, inner, mark, (path, "value"))
        message.type_url = schema.TYPE_URL_PREFIX + kind.full_name
        message.value = inner.SerializeToString(deterministic=True)

    def _type(self, entry: Entry, path: Path, *, host_needed: bool = True) -> MessageType | None:
        url = entry.node.value if entry.node.kind == STRING else ""
        host, slash, name = url.rpartition("/")
        if not name or (host_needed and not (slash and host)):
            hint = f"did you mean {schema.TYPE_URL_PREFIX + name!r}?" if self._schema.find(name) else ""
            self._misfit(entry.node, path, Misfit(f"a type such as {schema.TYPE_URL_PREFIX}<full name>", hint))
            return None
        kind = self._schema.find(name)
        if kind is None:
            near = self._schema.nearest_type(name)
            hint = f"did you mean {schema.TYPE_URL_PREFIX + near!r}?" if near else ""
            at = Position(self.file, entry.node.line, entry.node.column)
            self.errors.append(
                ConfigError(UNKNOWN, at, render_path(path), f"no such type in Envoy's API v3: {name!r}", hint=hint)
            )
        return kind

    # --- reports -----------------------------------------------------------------------------------------------

    def _misfit(self, node: Node, path: Path, misfit: Misfit) -> None:
        message = "unknown name" if misfit.unknown else "wrong value"
        kind = UNKNOWN if misfit.unknown else TYPE
        found = f"{node.value!r}" if misfit.unknown else node.describe()
        error = ConfigError(
            kind,
            Position(self.file, node.line, node.column),
            render_path(path),
            message,
            expected=misfit.expected,
            found=found,
            hint=misfit.hint,
        )
        (self._unknown if misfit.unknown else self.errors).append(error)

    def _unknown_field(self, entry: Entry, kind: MessageType, path: Path, names: tuple[str, ...] = ()) -> None:
        at = Position(self.file, entry.line, entry.column)
        message = f"unknown field {shorten(entry.key)} in {kind.full_name}"
        hint = self._field_hint(entry.key, kind, names)
        self._unknown.append(ConfigError(UNKNOWN, at, render_path(path), message, hint=hint))

    def _field_hint(self, key: str, kind: MessageType, names: tuple[str, ...]) -> str:
        known = _V2_FIELDS.get(f"{kind.full_name}.{key}")
        if known:
            return known
        if key == "<<":
            return "merge keys are not part of what Envoy reads; repeat the fields, or name a whole value with an alias"
        if key == "config" and "typed_config" in kind.by_name:
            return "a field of API v2; use typed_config with '@type'"
        for field in kind.fields:  # one level too high?
            if field.message is None or field.is_map or field.is_repeated or field.type_name in schema.WELL_KNOWN:
                continue
            if key in self._schema.of(field.message).by_key:
                return f"it is a field of '{field.name}'; did you mean to put it there?"
        near = did_you_mean(key, names or kind.by_name, at_least=0.8)
        if near:
            return near
        for outer in reversed(self._enclosing[:-1]):  # or too deep?
            if key in outer.by_key:
                return f"it is a field of the enclosing {outer.short_name}; is the indentation right?"
        return did_you_mean(key, names or kind.by_name)


class _Holder(Field):
    """Stands for a field whose type is ``type_name``, for a value that is no field's."""

    __slots__ = ()

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


_ZERO: Final[dict[int, Any]] = {1: 0, 2: 0, 3: 0, 4: 0, 5: 0.0, 6: 0.0, 7: False, 8: 0, 9: ""}  # by cpp_type


def _items(node: Node, flattens: bool) -> list[Node]:
    """The elements of a list; one value alone is a list of one, lists in it are part of it."""
    if node.kind != LIST:
        return [node]
    if not flattens or not any(item.kind == LIST for item in node.value):
        return list(node.value)
    return [inner for item in node.value for inner in (_items(item, True) if item.kind == LIST else [item])]
