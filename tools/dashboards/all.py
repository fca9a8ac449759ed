"""The six of them, by the name of their file."""

from __future__ import annotations

from collections.abc import Callable

from tools.dashboards import cost, internals, overview, quotas, savings, upstreams
from tools.dashboards.frame import Board

DASHBOARDS: dict[str, Callable[[], Board]] = {
    "overview": overview.board,
    "cost": cost.board,
    "cache": savings.board,
    "quotas": quotas.board,
    "upstreams": upstreams.board,
    "internals": internals.board,
}
