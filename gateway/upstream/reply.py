"""An upstream's answer: its head, its bytes as they come, and an end that is told apart from a cut.

Nothing here reads ahead: aiohttp stops reading the socket at twice `READ_BUFFER` (requirement I6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp

from gateway.errors import UpstreamCut, UpstreamTimeout
from gateway.exchange import HeaderList
from gateway.ports import CallTimes
from gateway.upstream import faults, rules
from gateway.upstream.pool import Attempt
from gateway.upstream.stats import status_class


class HTTPReply:
    """The `Reply` port. `done` is called once with the outcome when the connection is let go."""

    def __init__(
        self,
        name: str,
        response: aiohttp.ClientResponse,
        attempt: Attempt,
        *,
        times: CallTimes,
        idle: float,
        ends: float | None,
        done: Callable[[str], None],
    ) -> None:
        self.status = response.status
        self.headers: HeaderList = rules.response_headers(response.raw_headers)
        self.times = times
        length = response.headers.get("content-length", "")
        self.length: int | None = int(length) if length.isdecimal() else None
        coding = response.headers.get("content-encoding", "identity")
        self.encoded = coding.strip().lower() not in {"", "identity"}
        self._name = name
        self._response = response
        self._attempt = attempt
        self._idle = idle
        self._ends = ends
        self._done: Callable[[str], None] | None = done
        self._error: Exception | None = None
        # Such a body ends with its connection, so a reset cuts it (RFC 9112 section 8).
        self._delimited = self.length is None and "transfer-encoding" not in response.headers
        self._loop = asyncio.get_running_loop()
        self._waiting: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        attempt.on_fault = self._check_fault
        self._arm()
        self._check_fault()

    async def read(self) -> bytes:
        """Next bytes as they come, b"" at a clean end. UpstreamCut, UpstreamTimeout."""
        data = b""
        if self._ended:
            return data
        if self._error is None:
            self._waiting = self._loop.time()
            try:
                data = await self._response.content.readany()
            except (aiohttp.ClientError, OSError, RuntimeError) as exc:
                self.fail(faults.in_body(self._name, exc))
            except Exception as exc:  # what `fail` has put there
                self.fail(exc)
            else:
                self._check_end()
            finally:
                self._waiting = None
        if self._error is not None:
            raise self._error
        return data

    def close(self) -> None:
        """Let go: an answer read to its end gives its connection back, any other closes it."""
        if self._done is not None:
            self._error = UpstreamCut(f"The answer of upstream '{self._name}' was let go.")
            self._let_go("abandoned")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fail(self, error: Exception) -> None:
        """End the answer with `error`: who reads gets it, and the connection closes at once."""
        if self._done is None:
            return
        self._error = error
        self._response.content.set_exception(error)
        self._let_go(faults.TIMEOUT if isinstance(error, UpstreamTimeout) else faults.CUT)

    def _check_end(self) -> None:
        if not self._response.content.at_eof():
            return
        if self._delimited and self._attempt.reset:
            self.fail(faults.in_body(self._name, ConnectionResetError()))
        else:
            self._ended = True
            self._let_go(status_class(self.status))

    def _check_fault(self) -> None:
        """aiohttp leaves a reader waiting for ever when a body stops being HTTP."""
        fault = self._attempt.fault
        if isinstance(fault, Exception) and not self._response.content.is_eof():
            self.fail(faults.in_body(self._name, fault))

    def _let_go(self, outcome: str) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        # After the end it is in the pool again, perhaps another call's by now: not ours to close.
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()
        done(outcome)

    def _arm(self) -> None:
        """One timer for an answer, set anew only when it rings: a chunk costs no timer."""
        quiet_since = self._waiting if self._waiting is not None else self._loop.time()
        due = quiet_since + self._idle
        due = due if self._ends is None else min(due, self._ends)
        self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        now = self._loop.time()
        if self._ends is not None and now >= self._ends:
            self.fail(UpstreamTimeout(f"Upstream '{self._name}' was not done in time."))
        elif self._waiting is not None and now - self._waiting >= self._idle:
            self.fail(UpstreamTimeout(f"Upstream '{self._name}' fell silent."))
        else:
            self._arm()
