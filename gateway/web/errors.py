"""The one place where an error becomes an answer."""

from __future__ import annotations

from msgspec.json import encode

from gateway.errors import GatewayError
from gateway.exchange import HeaderList
from gateway.keys.rules import blotted


def render(error: GatewayError) -> tuple[int, HeaderList, bytes]:
    """Status, headers and JSON body of an error, in OpenAI's shape with all four members. A key
    that the client has put into a path or a model's name is not repeated: apps log errors (G7)."""
    headers = [(name.lower(), value) for name, value in error.headers()]
    body = blotted(encode(error.body()).decode()).encode()
    return error.status, [("content-type", "application/json"), *headers], body
