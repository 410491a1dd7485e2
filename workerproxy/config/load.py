"""Loads a configuration: text -> message -> checks. The one entry for start, ``--mode validate`` and reload.

Steps: read the sources (file, ``--config-yaml``, terse form, embedded default) -> parse each with positions -> build
the messages and merge them -> constraints, supported fields, semantics over the whole -> the result, or all errors.
Does no network I/O and keeps nothing: load again to reload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from workerproxy.config.builder import Builder
from workerproxy.config.constraints import Constraints
from workerproxy.config.document import Document
from workerproxy.config.errors import SYNTAX, UNKNOWN, UNSUPPORTED_FIELD, ConfigError, ConfigErrors, Position
from workerproxy.config.json_text import read_json
from workerproxy.config.marks import Mark, render_path
from workerproxy.config.schema import Schema
from workerproxy.config.semantics import Semantics
from workerproxy.config.support_check import SupportCheck, SupportTable
from workerproxy.config.terse import TERSE_SOURCE, expand
from workerproxy.config.walk import Visit, walk
from workerproxy.config.yaml_text import read_yaml
from workerproxy.extensions.registry import Registry

if TYPE_CHECKING:
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    from workerproxy.config.options import Options

MAX_FILE_BYTES: Final = 64 << 20
EMBEDDED_SOURCE: Final = "default.yaml (embedded)"
YAML_SOURCE: Final = "--config-yaml"
_ANY_IN_TEXT: Final = re.compile(r"\[\s*[\w.-]+/([\w.]+)\s*\]")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration that is valid and supported."""

    bootstrap: Bootstrap
    name: str  # where it came from, as messages name it
    warnings: tuple[ConfigError, ...]
    marks: Mark  # positions, in the shape of the message


def load(options: Options) -> LoadedConfig:
    """Load what ``options`` name. Raises ``ConfigErrors`` with every reason why it cannot be used."""
    return _Loader(options).load()


class _Loader:
    """One load. ``errors`` and ``warnings`` fill up over the steps."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._schema = Schema()
        self._errors: list[ConfigError] = []
        self._warnings: list[ConfigError] = []

    def load(self) -> LoadedConfig:
        bootstrap, marks = self._first_source()
        if self._options.config_yaml:
            override, override_marks = self._text(YAML_SOURCE, self._options.config_yaml, "yaml")
            bootstrap.MergeFrom(override)
            marks.merge(override_marks)
        if any(error.kind == SYNTAX for error in self._errors):
            raise ConfigErrors(self._errors)
        self._override_node(bootstrap)
        self._check(bootstrap, marks)
        if self._errors:
            raise ConfigErrors(self._errors)
        return LoadedConfig(bootstrap, self._options.config_name, tuple(dict.fromkeys(self._warnings)), marks)

    # --- sources -----------------------------------------------------------------------------------------------

    def _first_source(self) -> tuple[Bootstrap, Mark]:
        options = self._options
        if options.config_path:
            return self._file(options.config_path)
        if options.listen or options.to:
            document = expand(options.listen, options.to)
            return self._build(document)
        if options.config_yaml:
            return bootstrap_pb2.Bootstrap(), Mark(YAML_SOURCE)
        return self._text(EMBEDDED_SOURCE, default_text(), "yaml")

    def _file(self, path: str) -> tuple[Bootstrap, Mark]:
        nothing = bootstrap_pb2.Bootstrap(), Mark(path)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self._fail(path, f"cannot be read: {error.strerror}")
            return nothing
        except ValueError as error:  # a NUL in the name
            self._fail(repr(path), f"cannot be read: {error}")
            return nothing
        if len(data) > MAX_FILE_BYTES:
            self._fail(path, f"larger than {MAX_FILE_BYTES >> 20} MiB")
            return nothing
        extension = path.rpartition("/")[2].lower().rpartition(".")[2]
        if extension == "pb":
            return self._binary(path, data)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            self._fail(path, f"not UTF-8 text: byte 0x{data[error.start]:02x}", line, column)
            return nothing
        return self._text(path, text, extension)

    def _text(self, file: str, text: str, extension: str) -> tuple[Bootstrap, Mark]:
        if extension in ("pb_text", "textproto"):
            return self._text_proto(file, text)
        if extension == "json" or (extension not in ("yaml", "yml") and text.lstrip()[:1] == "{"):
            return self._build(read_json(file, text))
        return self._build(read_yaml(file, text))

    def _build(self, document: Document) -> tuple[Bootstrap, Mark]:
        bootstrap = bootstrap_pb2.Bootstrap()
        self._errors += document.errors
        self._warnings += document.warnings
        if document.root is None:
            return bootstrap, Mark(document.file)
        allow_unknown = self._options.allow_unknown_static_fields
        builder = Builder(document.file, self._schema, allow_unknown=allow_unknown)
        marks = builder.build(document.root, bootstrap)
        self._errors += builder.errors
        self._warnings += builder.warnings
        return bootstrap, marks

    def _binary(self, file: str, data: bytes) -> tuple[Bootstrap, Mark]:
        bootstrap = bootstrap_pb2.Bootstrap()
        try:
            bootstrap.ParseFromString(data)
        except DecodeError:
            self._fail(file, "not a binary envoy.config.bootstrap.v3.Bootstrap")
        return bootstrap, Mark(file)

    def _text_proto(self, file: str, text: str) -> tuple[Bootstrap, Mark]:
        bootstrap = bootstrap_pb2.Bootstrap()
        for name in _ANY_IN_TEXT.findall(text):
            self._schema.find(name)  # the parser knows only types whose module is imported
        try:
            text_format.Parse(text, bootstrap)
        except text_format.ParseError as error:
            reason = str(error).partition(" : ")[2] or str(error)
            self._fail(file, f"not a valid text protobuf: {reason}", error.GetLine() or 0, error.GetColumn() or 0)
        return bootstrap, Mark(file)

    def _fail(self, file: str, message: str, line: int = 0, column: int = 0) -> None:
        self._errors.append(ConfigError(SYNTAX, Position(file, line, column), "", message))

    def _override_node(self, bootstrap: Bootstrap) -> None:
        """--service-node, --service-cluster and --service-zone win over the file (LocalInfoImpl)."""
        if self._options.service_node:
            bootstrap.node.id = self._options.service_node
        if self._options.service_cluster:
            bootstrap.node.cluster = self._options.service_cluster
        if self._options.service_zone:
            bootstrap.node.locality.zone = self._options.service_zone

    # --- checks ------------------------------------------------------------------------------------------------

    def _check(self, bootstrap: Bootstrap, marks: Mark) -> None:
        constraints = Constraints()
        registry = Registry()
        support = SupportCheck(SupportTable(registry))
        semantics = Semantics(bootstrap, registry)
        for visit in walk(bootstrap, marks, self._schema):
            self._unknown_numbers(visit)
            self._errors += constraints.check(visit)
            self._file_support(support.check(visit))
            self._file_support(semantics.check(visit))
        if not self._options.skip_deprecated_logs:
            self._warnings += support.warnings
        self._warnings += semantics.warnings

    def _file_support(self, found: Iterable[ConfigError]) -> None:
        for error in found:
            tolerated = error.kind == UNSUPPORTED_FIELD and self._options.allow_unsupported
            (self._warnings if tolerated else self._errors).append(error)

    def _unknown_numbers(self, visit: Visit) -> None:
        """Fields of a binary file that Envoy's API does not have (only a binary file can have them)."""
        if visit.mark.line:
            return
        unknown = UnknownFieldSet(visit.message)
        for index in range(len(unknown)):
            field = unknown[index]
            message = f"unknown field number {field.field_number} in {visit.kind.full_name}"
            error = ConfigError(UNKNOWN, visit.mark.position, render_path(visit.path), message)
            (self._warnings if self._options.allow_unknown_static_fields else self._errors).append(error)


def default_text() -> str:
    """The embedded default configuration, as in ``conf/default.yaml``."""
    return resources.files("workerproxy.config").joinpath("default.yaml").read_text("utf-8")


__all__ = ["TERSE_SOURCE", "LoadedConfig", "default_text", "load"]
