"""``/server_info``: ``envoy.admin.v3.ServerInfo``, every field whether set or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from envoy.admin.v3 import server_info_pb2

from workerproxy.control.hot_restart import HOT_RESTART_VERSION
from workerproxy.main_thread.admin.json_text import proto_json
from workerproxy.main_thread.admin.page import Page, Request, Response, json_response
from workerproxy.main_thread.version import PROGRAM, program_version, version_parts

if TYPE_CHECKING:
    from workerproxy.config.options import Options
    from workerproxy.main_thread.server import Server

_SAME_NAME: Final = (
    "config_path",
    "config_yaml",
    "allow_unknown_static_fields",
    "admin_address_path",
    "log_level",
    "log_format",
    "log_format_escaped",
    "log_path",
    "service_cluster",
    "service_node",
    "service_zone",
    "disable_hot_restart",
    "use_dynamic_base_id",
    "base_id_path",
    "base_id",
    "socket_path",
    "socket_mode",
    "skip_deprecated_logs",
)


async def _answer(server: Server, request: Request) -> Response:
    info = server_info_pb2.ServerInfo()
    info.version = program_version()
    info.state = server_info_pb2.ServerInfo.State.Value(server.state.name)
    now = time.monotonic()
    info.uptime_current_epoch.seconds = int(now - server.started_at)
    info.uptime_all_epochs.seconds = int(now - server.first_started_at)
    info.hot_restart_version = "disabled" if server.options.disable_hot_restart else HOT_RESTART_VERSION
    _command_line(info.command_line_options, server.options, len(server.supervisor.slots), server.epoch)
    active = server.configuration.active
    if active is not None:
        info.node.CopyFrom(active.bootstrap.node)
    info.node.user_agent_name = PROGRAM
    number = info.node.user_agent_build_version.version
    number.major_number, number.minor_number, number.patch = version_parts()
    return json_response(proto_json(info, defaults=True))


def _command_line(target: Any, options: Options, workers: int, epoch: int) -> None:
    for name in _SAME_NAME:
        setattr(target, name, getattr(options, name))
    target.concurrency = workers
    target.restart_epoch = epoch
    target.component_log_level = ",".join(f"{name}:{level}" for name, level in options.component_log_levels)
    kind = type(target)
    target.mode = kind.Serve if options.mode == "serve" else kind.Validate
    target.drain_strategy = kind.Gradual if options.drain_strategy == "gradual" else kind.Immediate
    target.local_address_ip_version = getattr(kind, options.local_address_ip_version)
    target.drain_time.seconds = options.drain_time_s
    target.parent_shutdown_time.seconds = options.parent_shutdown_time_s
    target.file_flush_interval.FromMilliseconds(options.file_flush_interval_ms)
    target.stats_tag.extend(f"{name}:{value}" for name, value in options.stats_tags)


PAGE: Final = Page("/server_info", "print server version/status information", _answer)
