"""What the command line decides: one frozen object, made by ``workerproxy.cli``, read by the main process.

Field names and defaults are Envoy's (``source/server/options_impl.cc``, ``admin/v3/server_info.proto``
CommandLineOptions) where Envoy has the option. The object crosses no process boundary: what a worker needs of it
is in its birth message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DEFAULT_LOG_FORMAT: Final = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"
LOG_LEVELS: Final = ("trace", "debug", "info", "warning", "error", "critical", "off")
"""Envoy's level names, most talkative first; ``warn`` is an alias the command line turns into ``warning``."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything the command line said, checked; see ``workerproxy --help`` for the meaning of each."""

    # Where the configuration comes from. All empty: the embedded default.
    config_path: str = ""
    config_yaml: str = ""
    listen: str = ""
    to: tuple[str, ...] = ()

    mode: Literal["serve", "validate"] = "serve"
    workers: int = 1  # Envoy: --concurrency; at least 1

    log_level: str = "info"  # one of LOG_LEVELS
    component_log_levels: tuple[tuple[str, str], ...] = ()  # (component, level)
    log_format: str = DEFAULT_LOG_FORMAT  # spdlog pattern
    log_format_given: bool = False  # the operator has chosen it: what suits journald better must not replace it
    log_format_escaped: bool = False
    log_path: str = ""  # empty: stderr

    service_cluster: str = ""  # overrides node.cluster
    service_node: str = ""  # overrides node.id
    service_zone: str = ""  # overrides node.locality.zone

    pid_file: str = ""
    user: str = ""  # USER or USER:GROUP, names or numbers; empty: stay who we are
    umask: int | None = None  # None: as inherited
    watch: bool = False  # reload when one of the files changes
    cpu_affinity: bool = False  # worker i runs on the i-th usable core

    drain_grace_s: int = 0  # after SIGTERM: readiness fails, all else goes on for so long before the drain begins
    drain_time_s: int = 600
    drain_strategy: Literal["gradual", "immediate"] = "gradual"
    parent_shutdown_time_s: int = 900
    file_flush_interval_ms: int = 10_000
    file_flush_min_size_kb: int = 64
    local_address_ip_version: Literal["v4", "v6"] = "v4"
    admin_address_path: str = ""

    allow_unknown_static_fields: bool = False
    allow_unsupported: bool = False
    skip_deprecated_logs: bool = False
    error_format: Literal["text", "json"] = "text"

    # Envoy's way to upgrade, over a Unix socket.
    hot_restart: bool = False  # asked for by a flag that names a base id, an epoch or a socket, and not disabled
    base_id: int = 0
    use_dynamic_base_id: bool = False
    base_id_path: str = ""
    restart_epoch: int = 0
    socket_path: str = "@envoy_domain_socket"
    socket_mode: int = 0o600
    skip_hot_restart_on_no_parent: bool = False
    skip_hot_restart_parent_stats: bool = False
    disable_hot_restart: bool = False

    stats_tags: tuple[tuple[str, str], ...] = ()  # (name, value) on every statistic

    @property
    def config_name(self) -> str:
        """How messages name the configuration: the file, or what stands in for one."""
        if self.config_path:
            return self.config_path
        if self.listen:
            return f"--listen {self.listen}"
        return "--config-yaml" if self.config_yaml else "the embedded default"

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the configuration is read from. What it names in turn only the loaded bootstrap knows."""
        return (self.config_path,) if self.config_path else ()
