"""The command line: arguments only. What serves is `app.py`; the other commands are `commands/`."""

from __future__ import annotations

from typing import Any

import click

from gateway import __version__
from gateway.commands.backup import backup
from gateway.commands.cache import cache
from gateway.commands.keys import keys
from gateway.commands.logs import logs
from gateway.commands.options import (
    config_option,
    data_option,
    open_config,
    read_config,
    wrong,
)
from gateway.commands.teams import teams
from gateway.commands.usage import usage
from gateway.config import warnings


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def main() -> None:
    """A caching, logging reverse proxy in front of OpenAI-compatible chat completions.

    Start it with `gateway serve`, set your app's base URL to http://127.0.0.1:8080/v1, and it
    works as before. Every command takes --config and --data.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
    """


@main.command(
    epilog="""Examples:

    \b
      gateway serve
      gateway serve --config /etc/gateway/config.yaml --data /var/lib/gateway --port 9000"""
)
@config_option
@click.option("--host", help="Address of the data plane, instead of server.host.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Its port, instead of server.port; 0 picks one."
)
@click.option(
    "--admin-port", type=click.IntRange(0, 65535), help="Port of the admin plane; 0 picks one."
)
@data_option
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
def serve(workers: int, config_path: str, **options: Any) -> None:
    """Start the gateway and stay in the foreground.

    SIGTERM or Ctrl-C stops it once open streams have ended (server.drain_timeout), a second one at
    once. SIGHUP reloads the configuration and reopens the access log.
    """
    if workers > 1:
        wrong(
            "gateway: --workers above 1 is not built yet: quotas and the ledger need one owner. "
            "Leave it at 1."
        )
    file = open_config(config_path, options)
    config = read_config(file)
    from gateway.app import run  # noqa: PLC0415  (no other command needs a server's libraries)

    raise SystemExit(run(config, file))


@main.command(
    epilog="""Examples:

    \b
      gateway check --config config.yaml"""
)
@config_option
@data_option
def check(config_path: str, **options: Any) -> None:
    """Check the configuration; print every fault with its path and line.

    Exit code 2 where there is a fault.
    """
    config = read_config(open_config(config_path, options))
    for warning in warnings(config):
        click.echo(f"{config_path}: warning: {warning}", err=True)
    click.echo(f"{config_path}: ok")


main.add_command(keys)
main.add_command(teams)
main.add_command(usage)
main.add_command(logs)
main.add_command(cache)
main.add_command(backup)
