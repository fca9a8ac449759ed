"""What went wrong with a call, in the gateway's own words. Pure: a cause in, an error out.

A message names the upstream and the kind of failure. It never holds a URL, a header or a foreign
exception's text: each of them may carry a secret (requirement G7).
"""

from __future__ import annotations

import os
import socket
import ssl
from enum import StrEnum

from gateway.errors import UpstreamCut, UpstreamError

CONNECT = "connect_error"  # no connection came about
ERROR = "error"  # a connection did, an answer did not
CUT = "cut"  # the answer broke off
TIMEOUT = "timeout"
ABANDONED = "abandoned"  # let go before its end


class Break(StrEnum):
    """How a connection failed in the middle of a call; its value is the reason that is told."""

    CLOSED = "it closed the connection"
    GARBAGE = "what it sent is not HTTP, or its headers are too large"


class NoConnection(Exception):
    """No connection came about; the text is the reason, in words that are fixed."""


def no_answer(name: str, reason: str) -> UpstreamError:
    """The error for a call without an answer."""
    return UpstreamError(f"Upstream '{name}' did not answer: {reason}.")


def cut_short(name: str, why: Break) -> UpstreamCut:
    """The error for an answer that broke off after its head."""
    if why is Break.CLOSED:
        return UpstreamCut(f"Upstream '{name}' broke off before its answer was complete.")
    return UpstreamCut(f"Upstream '{name}' sent an answer that is not HTTP any more.")


def of_connecting(exc: Exception, *, proxy: bool) -> str:
    """Why no connection came about. `proxy`: it is the proxy that was not reached."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted ({exc.verify_message})"
    if isinstance(exc, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(exc, socket.gaierror):
        return "its host name, or its proxy's, was not found"
    reason = "its proxy was not reached" if proxy else "the connection failed"
    number = exc.errno if isinstance(exc, OSError) else None
    return f"{reason} ({os.strerror(number)})" if number and number > 0 else reason
