"""One request for people: how its time went, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

WIDTH = 40  # columns of the longest bar

POINTS = (
    ("received", "the body was there"),
    ("admitted", "caller, model and limits are fine"),
    ("looked_up", "the cache was asked"),
    ("connected", "a connection to the upstream was at hand"),
    ("first_byte", "of the upstream's answer"),
    ("first_token", "handed to the client"),
    ("last_byte", "of the upstream's answer"),
    ("booked", "its row was on its way to the disk"),
    ("total", "the end"),
)
LEFT_OUT = {
    "queue_full": "left out: the journal's queue was full",
    "streamed": "left out: it was streamed through",
    "binary": "left out: it is no text",
}


def page(row: Mapping[str, Any], kept: Mapping[str, Any] | None) -> str:
    """The parts below the row, with a blank line before each."""
    ms = {**row["ms"], **({} if kept is None else kept["ms"])}
    parts = ["", "timeline", *_timeline(ms, row["time"])]
    if kept is None:
        parts += ["", "no headers or bodies are kept of this request"]
    else:
        parts += _side("request", kept["request"]) + _side("response", kept["response"])
    return "\n".join(parts)


def _timeline(ms: Mapping[str, float | None], arrived: str) -> list[str]:
    """Each point by the milliseconds since the arrival; the bar is the time since the last one."""
    known = [(name, ms[name], text) for name, text in POINTS if ms.get(name) is not None]
    known.sort(key=lambda point: point[1] or 0.0)
    longest = max((at or 0.0 for _, at, _ in known), default=0.0) or 1.0
    lines = [f"  {0.0:>10.1f} ms  {'arrived':12} {arrived}"]
    before = 0.0
    for name, found, text in known:
        at = found or 0.0
        bar = "█" * round((at - before) / longest * WIDTH)
        lines.append(f"  {at:>10.1f} ms  {name:12} {text:42} {bar}".rstrip())
        before = at
    return lines


def _side(name: str, side: Mapping[str, Any]) -> list[str]:
    lines = ["", name, *(f"  {header}: {value}" for header, value in side["headers"])]
    if (left := side["left_out"]) is not None:
        lines += ["", f"  ({side['bytes']} bytes, {LEFT_OUT.get(left, left)})"]
    elif side["body"] is not None:
        lines += ["", *(f"  {line}" for line in _pretty(side).splitlines())]
        if side["cut"]:
            lines += [f"  (cut: the whole has {side['bytes']} bytes)"]
    return lines


def _pretty(side: Mapping[str, Any]) -> str:
    body = str(side["body"])
    if side["form"] in ("json", "stream"):
        try:
            return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
        except ValueError:
            pass
    return body
