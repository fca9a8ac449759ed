"""What the admin plane has, in one table; the guard and `GET /openapi.json` go by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from gateway import __version__
from gateway.admin import OPERATIONS, Operation


class Access(StrEnum):
    """Who may ask."""

    OPEN = "anyone"
    LOOPBACK = "loopback peers, everybody with metrics.open, else the token"
    TOKEN = "the token"
    SOCKET = "the control socket; on the admin plane it is not there"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that exists. `answers`: status to what it means; `media`: of the 200.

    `operation`: what is done there; None where the plane does it itself.
    """

    path: str
    access: Access
    summary: str
    answers: Mapping[int, str]
    media: str = "application/json"
    method: str = "GET"
    operation: Operation[Any] | None = None


ROUTES: tuple[Route, ...] = (
    Route("/healthz", Access.OPEN, "Is the process alive?", {200: "It is."}),
    Route(
        "/readyz",
        Access.OPEN,
        "Does it take requests?",
        {200: "It does.", 503: "It is stopping, or something it needs fails; the body says what."},
    ),
    Route(
        "/metrics",
        Access.LOOPBACK,
        "Metrics for Prometheus, as text or OpenMetrics.",
        {200: "The page."},
        "text/plain",
    ),
    Route(
        "/admin/config",
        Access.TOKEN,
        "The running configuration, secrets masked.",
        {200: "The configuration in the form of config.yaml."},
    ),
    Route("/openapi.json", Access.TOKEN, "This description.", {200: "An OpenAPI 3.1 document."}),
    *(
        Route(
            one.path,
            Access.SOCKET if one.local else Access.TOKEN,
            one.summary,
            {200: one.answer},
            method=one.method,
            operation=one,
        )
        for one in OPERATIONS
    ),
)


def openapi() -> dict[str, Any]:
    """The table as an OpenAPI 3.1 document."""
    text = {"type": ["string", "null"]}
    members = {name: text for name in ("message", "type", "param", "code")}
    error = {"type": "object", "properties": members, "required": list(members)}
    paths: dict[str, dict[str, Any]] = {}
    for route in (one for one in ROUTES if one.access is not Access.SOCKET):
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "gateway, admin plane", "version": __version__},
        "paths": paths,
        "components": {
            "securitySchemes": {"adminToken": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {"type": "object", "properties": {"error": error}, "required": ["error"]}
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    answers: dict[str, Any] = {
        str(status): {"description": text, "content": {route.media: {"schema": {}}}}
        for status, text in route.answers.items()
    }
    refusals: Mapping[int, str] = {} if route.operation is None else route.operation.refusals
    schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    for status, text in [*refusals.items(), ("4XX", "Refused.")]:
        answers[str(status)] = {"description": text, "content": {"application/json": schema}}
    name = route.path.strip("/").replace("/", "_").partition(".")[0]
    prefix = "" if route.method == "GET" else f"{route.method.lower()}_"
    return {
        "summary": route.summary,
        "description": f"For {route.access}.",
        "operationId": prefix + name.replace("{", "").replace("}", ""),
        "security": [] if route.access is Access.OPEN else [{"adminToken": []}],
        **({} if route.operation is None else _arguments(route.operation)),
        "responses": answers,
    }


def _arguments(operation: Operation[Any]) -> dict[str, Any]:
    """What it takes: names in the path, then those in the query or in a JSON body."""
    _, schemas = msgspec.json.schema_components([operation.takes])
    schema = schemas[operation.takes.__name__]
    schema.pop("title")
    members: dict[str, dict[str, Any]] = schema["properties"]
    path = {name: members.pop(name) for name in operation.in_path}
    schema["required"] = [name for name in schema["required"] if name not in path]
    found = [_parameter(name, "path", member, required=True) for name, member in path.items()]
    if operation.has_body:
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        return {"parameters": found, "requestBody": body}
    required = schema["required"]
    found += [
        _parameter(name, "query", member, required=name in required)
        for name, member in members.items()
    ]
    return {"parameters": found}


def _parameter(name: str, place: str, member: dict[str, Any], *, required: bool) -> dict[str, Any]:
    text = member.pop("description")
    return {
        "name": name, "in": place, "required": required, "description": text, "schema": member
    }  # fmt: skip
