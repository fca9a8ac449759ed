"""The command line: arguments only. What a command does lives in `app.py` and the rooms."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from gateway import __version__
from gateway.config import Config, ConfigError, warnings, with_overrides
from gateway.watch import ConfigFile

DEFAULT = "config.yaml"
WRONG = 2  # exit code for wrong usage or configuration

_config_option = click.option(
    "--config",
    "config_path",
    default=DEFAULT,
    show_default=True,
    metavar="FILE",
    help="The configuration file. Without one at the default place, the shipped defaults hold.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """A caching, logging reverse proxy in front of OpenAI-compatible chat completions.

    Start it with `gateway serve`, set your app's base URL to http://127.0.0.1:8080/v1, and it
    works as before. Every command takes --config and --data.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


@main.command()
@_config_option
@click.option("--host", help="Address of the data plane, instead of server.host.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Its port, instead of server.port; 0 picks one."
)
@click.option(
    "--admin-port", type=click.IntRange(0, 65535), help="Port of the admin plane; 0 picks one."
)
@click.option("--data", metavar="DIR", help="Directory for everything kept, instead of data.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def serve(workers: int, config_path: str, **options: Any) -> None:
    """Start the gateway and stay in the foreground.

    SIGTERM or Ctrl-C stops it once open streams have ended (server.drain_timeout), a second one at
    once. SIGHUP reloads the configuration and reopens the access log.
    """
    if workers > 1:
        _wrong(
            "gateway: --workers above 1 is not built yet: quotas and the ledger need one owner. "
            "Leave it at 1."
        )
    file = open_config(config_path, options)
    config = read_config(file)
    from gateway.app import run  # noqa: PLC0415  (no other command needs a server's libraries)

    raise SystemExit(run(config, file))


@main.command()
@_config_option
@click.option("--data", metavar="DIR", help="Directory for everything kept, instead of data.")
def check(config_path: str, **options: Any) -> None:
    """Check the configuration; print every fault with its path and line.

    Exit code 2 where there is a fault.
    """
    config = read_config(open_config(config_path, options))
    for warning in warnings(config):
        click.echo(f"{config_path}: warning: {warning}", err=True)
    click.echo(f"{config_path}: ok")


def open_config(path: str, options: dict[str, Any]) -> ConfigFile:
    """The configuration's file with the command line's options over it. Only the default one may be
    missing: then all defaults hold."""
    return ConfigFile(
        path,
        os.environ,
        overrides=lambda config: with_overrides(config, **options),
        missing_ok=path == DEFAULT,
    )


def read_config(file: ConfigFile) -> Config:
    """What the file says; its faults, all of them, end the process with exit code 2."""
    try:
        return file.read()
    except ConfigError as error:
        _wrong(str(error))


def _wrong(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(WRONG)
