"""config.yaml and the environment as typed sections, or every fault at once, with path and line.

Pure: text and environment in, a `Config` out; reading files is the job of `gateway/watch.py`.
Behind this door, in order: sections (what there is), units, document (YAML with lines), environment
(`${NAME}`), structure (types), addresses, checks (rules between settings), loader, view.
"""

from gateway.config.addresses import is_loopback, upstream_base
from gateway.config.checks import warnings
from gateway.config.document import ConfigError, Fault
from gateway.config.loader import as_running, load, with_overrides
from gateway.config.sections import (
    TLS,
    Abandoned,
    Admin,
    Anonymous,
    Cache,
    CacheRule,
    Config,
    Disconnect,
    Duration,
    GiB,
    Keys,
    KiB,
    Metrics,
    MiB,
    Scope,
    Secret,
    SecretURL,
    Server,
    Size,
    Timeouts,
    UpstreamSection,
)
from gateway.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_money,
    parse_size,
)
from gateway.config.view import RESTART, masked, reloadable

__all__ = [
    "RESTART",
    "TLS",
    "Abandoned",
    "Admin",
    "Anonymous",
    "Cache",
    "CacheRule",
    "Config",
    "ConfigError",
    "Disconnect",
    "Duration",
    "Fault",
    "GiB",
    "Keys",
    "KiB",
    "Metrics",
    "MiB",
    "Scope",
    "Secret",
    "SecretURL",
    "Server",
    "Size",
    "Timeouts",
    "UpstreamSection",
    "as_running",
    "format_duration",
    "format_size",
    "is_loopback",
    "load",
    "masked",
    "parse_duration",
    "parse_money",
    "parse_size",
    "reloadable",
    "upstream_base",
    "warnings",
    "with_overrides",
]
