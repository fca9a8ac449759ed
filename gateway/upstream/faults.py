"""What went wrong with a call, in the gateway's own words. Pure: an exception in, an error out.

A message names the upstream and the kind of failure. It never holds a URL, a header or a foreign
exception's text: each of them may carry a secret (requirement G7).
"""

from __future__ import annotations

import os
import ssl

from aiohttp import client_exceptions as aio

from gateway.errors import GatewayError, UpstreamCut, UpstreamError, UpstreamTimeout

CONNECT = "connect_error"  # no connection came about
ERROR = "error"  # a connection did, an answer did not
CUT = "cut"  # the answer broke off
TIMEOUT = "timeout"

# The first that fits: the classes are nested.
_KINDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (aio.ClientConnectorCertificateError, CONNECT, "its TLS certificate is not trusted"),
    ((aio.ClientConnectorSSLError, ssl.SSLError), CONNECT, "the TLS handshake failed"),
    (aio.ClientConnectorDNSError, CONNECT, "its host name, or its proxy's, was not found"),
    (aio.ClientProxyConnectionError, CONNECT, "its proxy was not reached"),
    (aio.ClientHttpProxyError, CONNECT, "its proxy refused to connect"),
    (aio.ClientConnectorError, CONNECT, "the connection failed"),
    (aio.ClientResponseError, ERROR, "what it sent is not HTTP, or its headers are too large"),
    ((aio.ServerDisconnectedError, OSError), ERROR, "it closed the connection"),
    (Exception, ERROR, "the call could not be made"),
)


def before_head(name: str, exc: Exception) -> tuple[GatewayError, str]:
    """The error for a call without an answer, and its class."""
    if isinstance(exc, aio.ConnectionTimeoutError):
        return UpstreamTimeout(f"No connection to upstream '{name}' came about in time."), TIMEOUT
    outcome, reason = next((o, r) for kind, o, r in _KINDS if isinstance(exc, kind))
    return UpstreamError(f"Upstream '{name}' did not answer: {reason}{_detail(exc)}."), outcome


def in_body(name: str, exc: Exception) -> UpstreamCut:
    """The error for an answer that broke off after its head."""
    if isinstance(exc, aio.ClientPayloadError | OSError):
        return UpstreamCut(f"Upstream '{name}' broke off before its answer was complete.")
    return UpstreamCut(f"Upstream '{name}' sent an answer that is not HTTP any more.")


def _detail(exc: Exception) -> str:
    """More, in words that are fixed: the operating system's, OpenSSL's, a status."""
    found = ""
    if isinstance(exc, aio.ClientConnectorCertificateError):
        found = getattr(exc.certificate_error, "verify_message", "")
    elif isinstance(exc, aio.ClientHttpProxyError):
        found = f"status {exc.status}"
    elif isinstance(exc, aio.ClientConnectorError) and (exc.os_error.errno or 0) > 0:
        found = os.strerror(exc.os_error.errno or 0)
    return f" ({found})" if found else ""
