"""What all commands have in common: where the configuration is, how to end, how to show."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import click

from gateway.config import Config, ConfigError, with_overrides
from gateway.watch import ConfigFile

DEFAULT = "config.yaml"
FAILED = 1  # exit code
WRONG = 2  # exit code for wrong usage or configuration
FORMATS = ("table", "json", "csv")

F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "config_path",
    default=DEFAULT,
    show_default=True,
    metavar="FILE",
    help="The configuration file. Without one at the default place, the shipped defaults hold.",
)
data_option = click.option(
    "--data", metavar="DIR", help="Directory for everything kept, instead of data."
)
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="For people, or one JSON document, or CSV with a header.",
)


def common(command: F) -> F:
    """The options that every command on a data directory has."""
    return config_option(data_option(format_option(command)))


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
        wrong(str(error))


def wrong(message: str) -> NoReturn:
    """End: wrong usage or configuration."""
    click.echo(message, err=True)
    sys.exit(WRONG)


def failed(message: str) -> NoReturn:
    """End: it could not be done."""
    click.echo(f"gateway: {message}", err=True)
    sys.exit(FAILED)
