"""A configuration as others may see it, and what a change of it needs."""

from __future__ import annotations

import typing
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs

from gateway.config.kinds import (
    NONE_IS_A_WORD,
    Duration,
    Money,
    Price,
    Secret,
    Size,
)
from gateway.config.sections import Anonymous, Config
from gateway.config.units import format_duration, format_money, format_price, format_size

# Sockets are bound, files opened and the loop chosen once. `docs/configuration.md` says the same.
RESTART = (
    "server.host",
    "server.port",
    "server.access_log",
    "server.max_connections",
    "server.tls",
    "server.event_loop",
    "admin.host",
    "admin.port",
    "admin.token",
    "admin.tls",
    "data",
    "cache.enabled",
    "quota.timezone",
    "usage.durability",
    "traces.endpoint",
    "traces.headers",
    "traces.service_name",
    "traces.timeout",
)

_WRITTEN: dict[Any, Callable[[Any], str]] = {
    Duration: format_duration,
    Size: format_size,
    Price: format_price,
    Money: format_money,
}


def masked(config: Config) -> dict[str, Any]:
    """The whole as plain data in the file's own writing; a secret is `***`, an empty one ''.

    `upstreams[].passthrough` is null where it follows from `api_key`.
    """
    shown: dict[str, Any] = _shown(config, Config)
    return shown


def reloadable(old: Config, new: Config) -> list[str]:
    """The paths among RESTART whose values differ: they hold only after a restart."""
    return [path for path in RESTART if _at(old, path) != _at(new, path)]


def _at(config: Config, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _shown(value: Any, kind: Any) -> Any:
    """`kind` is the declared type: it alone tells a size or a duration from a number."""
    inner = typing.get_args(kind)
    if attrs.has(type(value)):
        hints = typing.get_type_hints(type(value))
        return {name: _shown(getattr(value, name), hint) for name, hint in hints.items()}
    if isinstance(value, list):
        return [_shown(item, inner[0]) for item in value]
    if isinstance(value, dict):
        return {key: _shown(item, inner[1]) for key, item in value.items()}
    return _word(value, {kind, *inner})


def _word(value: Any, declared: set[Any]) -> Any:
    if isinstance(value, Secret):
        return value.masked()
    if value is None:
        return "none" if declared & NONE_IS_A_WORD else None
    for kind in declared & _WRITTEN.keys():
        return _WRITTEN[kind](value)
    return value.value if isinstance(value, Enum) else value


def aliases_of(config: Config) -> list[str]:
    """The names of callers that need no stored key."""
    anonymous = ["anonymous"] if config.keys.anonymous is not Anonymous.NEVER else []
    return [*config.keys.aliases.values(), *anonymous]


def secrets_of(config: Config) -> list[str]:
    """Credentials of ours, wherever an answer might repeat them."""
    own = [config.admin.token, *(upstream.api_key for upstream in config.upstreams)]
    for upstream in config.upstreams:
        own += [*upstream.headers.values(), *upstream.query.values()]
    return [str(secret) for secret in own if secret]
