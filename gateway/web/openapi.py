"""What the admin plane has, in one table; the guard and `GET /openapi.json` go by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway import __version__


class Access(StrEnum):
    """Who may ask."""

    OPEN = "anyone"
    LOOPBACK = "loopback peers, everybody with metrics.open, else the token"
    TOKEN = "the token"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that exists. `answers`: status to what it means; `media`: of the 200."""

    path: str
    access: Access
    summary: str
    answers: Mapping[int, str]
    media: str = "application/json"


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
)


def openapi() -> dict[str, Any]:
    """The table as an OpenAPI 3.1 document."""
    text = {"type": ["string", "null"]}
    members = {name: text for name in ("message", "type", "param", "code")}
    error = {"type": "object", "properties": members, "required": list(members)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gateway, admin plane", "version": __version__},
        "paths": {route.path: {"get": _operation(route)} for route in ROUTES},
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
    schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    answers["4XX"] = {"description": "Refused.", "content": {"application/json": schema}}
    return {
        "summary": route.summary,
        "description": f"For {route.access}.",
        "operationId": route.path.strip("/").replace("/", "_").partition(".")[0],
        "security": [] if route.access is Access.OPEN else [{"adminToken": []}],
        "responses": answers,
    }
