"""The one error tree: HTTP status, OpenAI `type`, low-cardinality `code`.

Pure. Rooms raise these; foreign exceptions are mapped to them where they can be raised;
`web/errors.py` is the one place that renders them. The table is the contract's ("Errors" in
docs/errors.md).

`x-should-retry` and `Retry-After` are what openai-python obeys first
(src/openai/_base_client.py, `_should_retry`, `_parse_retry_after_header`).
"""

from __future__ import annotations

import math
from typing import ClassVar


class GatewayError(Exception):
    """A refusal or failure that the gateway itself answers.

    `message` goes to the client: it names what is wrong and what would be right, and never holds a
    secret.
    `retry_after` is in seconds; None sends no `Retry-After`.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def type(self) -> str:
        """OpenAI's `error.type`: by status class, the code itself for 429."""
        if self.status == 429:
            return self.code
        return "invalid_request_error" if self.status < 500 else "api_error"

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object: all four members, always."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> list[tuple[str, str]]:
        """The headers that steer a client's retries."""
        found: list[tuple[str, str]] = []
        if self.should_retry is not None:
            found.append(("x-should-retry", "true" if self.should_retry else "false"))
        if self.retry_after is not None:
            found.append(("Retry-After", str(max(1, math.ceil(self.retry_after)))))
        return found


class ClientError(GatewayError):
    """A 4xx that repeating cannot mend: `x-should-retry: false`."""

    status = 400
    code = "invalid_request"
    should_retry = False


class InvalidJSON(ClientError):
    code = "invalid_json"


class InvalidRequest(ClientError):
    code = "invalid_request"


class InvalidAPIKey(ClientError):
    """One body for every reason: missing, unknown, expired, revoked (no oracle)."""

    status = 401
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__(
            "No valid API key was given. Send 'Authorization: Bearer KEY' (or 'api-key: KEY') "
            "with a key that is known here and neither expired nor revoked."
        )


class ModelNotAllowed(ClientError):
    status = 403
    code = "model_not_allowed"


class UpstreamNotAllowed(ClientError):
    status = 403
    code = "upstream_not_allowed"


class EndpointNotMetered(ClientError):
    status = 403
    code = "endpoint_not_metered"


class ModelNotPriced(ClientError):
    status = 403
    code = "model_not_priced"


class ModelNotFound(ClientError):
    status = 404
    code = "model_not_found"


class UnknownURL(ClientError):
    status = 404
    code = "unknown_url"


class NotFound(ClientError):
    """The admin plane knows nothing by this name or id."""

    status = 404
    code = "not_found"


class Conflict(ClientError):
    """What is there already stands against it, on the admin plane (RFC 9110 section 15.5.10)."""

    status = 409
    code = "conflict"


class MethodNotAllowed(ClientError):
    """A known path with the wrong method (RFC 9110 section 15.5.6); `allow` goes into `Allow`."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow

    def headers(self) -> list[tuple[str, str]]:
        return [*super().headers(), ("Allow", self.allow)]


class RequestTimeout(GatewayError):
    """The request did not arrive in time. Repeating may help, so nothing forbids it."""

    status = 408
    code = "request_timeout"


class RequestTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    status = 415
    code = "unsupported_encoding"


class RateLimited(GatewayError):
    """A limit that frees itself within moments: a minute's, max-parallel, reservations that settle.

    `retry-after-ms` is what openai-python reads before `Retry-After`: no second is waited in vain.
    """

    status = 429
    code = "rate_limit_exceeded"

    def headers(self) -> list[tuple[str, str]]:
        found = super().headers()
        if self.retry_after is not None:
            found.append(("retry-after-ms", str(max(1, math.ceil(self.retry_after * 1000)))))
        return found


class InsufficientQuota(GatewayError):
    """A day's, week's, month's or total limit is used up: repeating cannot mend it soon.
    `retry_after` None: nothing resets it."""

    status = 429
    code = "insufficient_quota"
    should_retry = False


class ExpectationFailed(ClientError):
    """An `Expect` other than `100-continue` (RFC 9110 section 10.1.1)."""

    status = 417


class UpgradeNotSupported(GatewayError):
    """No protocol to upgrade to (contract: 501)."""

    status = 501
    code = "not_implemented"
    should_retry = False


class InternalError(GatewayError):
    """A fault of the gateway. Nothing should reach this; where something does, it is logged in
    full."""

    status = 500
    code = "internal_error"


class StorageError(GatewayError):
    """What was to be written or removed may not be, on the admin plane; the message says why."""

    status = 500
    code = "storage_error"


class UpstreamError(GatewayError):
    """The upstream could not be reached, broke off, or answered what is not HTTP."""

    status = 502
    code = "upstream_error"


class UpstreamCut(UpstreamError):
    """The upstream broke off after its head (or a stream ended without its terminator)."""


class RequestLoop(UpstreamError):
    """This instance's own `Via` came back: the configured upstream is the gateway itself."""

    should_retry = False


class UpstreamTimeout(GatewayError):
    status = 504
    code = "upstream_timeout"


class Overloaded(GatewayError):
    status = 503
    code = "overloaded"


class Draining(GatewayError):
    status = 503
    code = "draining"


class LedgerUnavailable(GatewayError):
    status = 503
    code = "ledger_unavailable"


class NotCached(GatewayError):
    """`only-if-cached` and nothing is (RFC 9111 section 5.2.1.7)."""

    status = 504
    code = "not_cached"
    should_retry = False
