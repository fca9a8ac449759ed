"""Breaking off one awaited section of a task from a callback; and what comes into a task late.
asyncio, no I/O, no own task.

A request is begun without a task, since most need none (design.md, "One path for everything").
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import TracebackType, coroutine
from typing import Any


@coroutine
def own_task() -> Generator[None, None, None]:
    """Go on in a task of one's own: for timeouts and leashes. Nothing to do where there is one."""
    if asyncio.current_task() is None:
        yield


@coroutine
def resumed(begun: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that waits for `awaited` and was begun outside of a task."""
    try:
        while True:
            try:
                got = yield awaited
            except GeneratorExit:
                begun.close()
                raise
            except BaseException as error:
                awaited = begun.throw(error)
            else:
                awaited = begun.send(got)
    except StopIteration:
        return


class Leash:
    """Lets a callback break off one awaited section of a task, as `asyncio.timeout` does for a
    deadline. `reason` is what the section then ends with."""

    __slots__ = ("_cancelled", "_cancelling", "_task", "reason")

    def __init__(self) -> None:
        self.reason: Exception | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled = False

    def __enter__(self) -> Leash:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        return self

    def pull(self, reason: Exception) -> None:
        """Break off. From the section's own task it takes effect at the next `check`."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None and asyncio.current_task() is not self._task:
            self._cancelled = self._task.cancel()

    def check(self) -> None:
        """Raise the reason if it was pulled; call before each await."""
        if self.reason is not None:
            raise self.reason

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if not self._cancelled or task is None:
            return
        mine = task.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        if mine and self.reason is not None:
            raise self.reason from None
