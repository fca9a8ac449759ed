"""An operation's arguments as they stand in a request: in its path, and in its query or its body.

Rule: each name once, or the request is refused: of two, the wrong one might be taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from gateway.admin import Operation
from gateway.errors import InvalidJSON, InvalidRequest


async def arguments_of(request: web.Request, operation: Operation[Any]) -> dict[str, Any]:
    """All that is given by name. InvalidJSON, InvalidRequest."""
    given: dict[str, Any] = dict(request.match_info)
    _merge(given, request.query.items())
    if operation.has_body:
        if request.query:
            raise InvalidRequest("This takes a JSON body, and nothing behind a '?'.")
        _merge(given, _members(await request.read()))
    return given


def _members(body: bytes) -> Iterable[tuple[str, Any]]:
    if not body:
        return ()
    try:
        members = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise InvalidJSON("The body is not JSON.") from None
    if not isinstance(members, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return members.items()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    _merge(found, pairs)
    return found


def _merge(given: dict[str, Any], more: Iterable[tuple[str, Any]]) -> None:
    for name, value in more:
        if name in given:
            raise InvalidRequest(f"'{name[:64]}' is given twice.")
        given[name] = value
