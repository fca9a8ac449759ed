"""The one place where an error becomes an answer."""

from __future__ import annotations

from msgspec.json import encode

from gateway.errors import GatewayError
from gateway.exchange import HeaderList


def render(error: GatewayError) -> tuple[int, HeaderList, bytes]:
    """Status, headers and JSON body of an error, in OpenAI's shape with all four members."""
    headers = [(name.lower(), value) for name, value in error.headers()]
    return error.status, [("content-type", "application/json"), *headers], encode(error.body())
