"""How a request waits: in no task where it waits for a `Pause`, else in one; and how a callback
breaks one awaited section off. asyncio, no I/O.

A request is begun without a task, and most need none (design.md, "One path for everything"): who
waits for a callback goes on within it, with no future, task or turn of the loop between. A timeout
needs a task: `own_task` before each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType, coroutine
from typing import Any

from msgspec import Struct

_WHO = object()  # what a coroutine yields that asks who goes on with it


@coroutine
def own_task() -> Generator[None, None, None]:
    """Go on in a task of one's own: for timeouts. Nothing to do where there is one."""
    if asyncio.current_task() is None:
        yield


@coroutine
def runner() -> Generator[Any, Any, Errand | asyncio.Task[Any]]:
    """Who goes on with the present coroutine, and can cancel it."""
    return asyncio.current_task() or (yield _WHO)


class Pause(Struct, eq=False):
    """One coroutine waits for it, once, and a callback ends it."""

    over: bool = False
    _errand: Errand | None = None
    _future: asyncio.Future[None] | None = None

    def __await__(self) -> Generator[Any, Any, None]:
        if self.over:
            return
        task = asyncio.current_task()
        if task is None:
            yield self
        else:
            self._future = task.get_loop().create_future()
            yield from self._future

    def end(self) -> None:
        """Who waits goes on; outside of a task that is before this returns, so call it last."""
        if self.over:
            return
        self.over = True
        if self._errand is not None:
            self._errand.resume(self)
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)

    def end_soon(self) -> None:
        """The same, in a turn of the loop of its own."""
        asyncio.get_running_loop().call_soon(self.end)


class Errand(Struct, eq=False):
    """Goes on with a coroutine that was begun outside of a task. It is cancelled as a task is.
    `error` is what it has ended with."""

    _way: Coroutine[Any, Any, None]
    _loop: asyncio.AbstractEventLoop
    _ended: Callable[[Errand], None]
    over: bool = False
    error: BaseException | None = None
    _pause: Pause | None = None
    _task: asyncio.Task[None] | None = None
    _cancels: int = 0  # asked for, and not taken back
    _due: bool = False  # to be cancelled where it waits next

    def cancel(self) -> bool:
        """As a task's; False: it is over."""
        if self._task is not None:
            return self._task.cancel()
        self._cancels += 1
        self._due = True
        if self._pause is not None:
            self._loop.call_soon(self._break)
        return not self.over

    def cancelling(self) -> int:
        """As a task's."""
        return self._cancels if self._task is None else self._task.cancelling()

    def uncancel(self) -> int:
        """As a task's."""
        if self._task is not None:
            return self._task.uncancel()
        self._cancels = max(0, self._cancels - 1)
        self._due = self._due and self._cancels > 0
        return self._cancels

    def resume(self, pause: Pause) -> None:
        """`pause` has ended."""
        if self._pause is not pause:
            return  # it was cancelled meanwhile
        if asyncio.current_task(self._loop) is None:
            self.go_on()
        else:  # what runs in between two turns of another's task has no task of its own
            self._loop.call_soon(self._late, pause)

    def _late(self, pause: Pause) -> None:
        if self._pause is pause:
            self.go_on()

    def _break(self) -> None:
        if self._due and self._pause is not None:
            self._due = False
            self.go_on(None, asyncio.CancelledError())

    def go_on(self, answer: object = None, error: BaseException | None = None) -> None:
        """To where it waits next, or its end."""
        self._pause, way = None, self._way
        try:
            awaited = way.send(answer) if error is None else way.throw(error)
            while awaited is _WHO:
                awaited = way.send(self)
        except StopIteration:
            self._end(None)
        except BaseException as failure:
            self._end(failure)
            if not isinstance(failure, (Exception, asyncio.CancelledError)):
                raise
        else:
            self.wait(awaited)

    def wait(self, awaited: Any) -> None:
        """Go on when that is here which its coroutine has yielded."""
        if isinstance(awaited, Pause):
            self._pause, awaited._errand = awaited, self
            if self._due:
                self._loop.call_soon(self._break)
            return
        way = self._way if awaited is None else resumed(self._way, awaited)
        self._task = self._loop.create_task(way)
        self._task.add_done_callback(self._task_ended)
        if self._due:
            self._task.cancel()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._end(asyncio.CancelledError() if task.cancelled() else task.exception())

    def _end(self, error: BaseException | None) -> None:
        self.over, self.error = True, error
        self._ended(self)


def begin(
    way: Coroutine[Any, Any, None],
    loop: asyncio.AbstractEventLoop,
    ended: Callable[[Errand], None],
) -> Errand | None:
    """Run a coroutine, outside of a task, to where it waits first. None: it has returned, and what
    it has raised is raised; else `ended` will be called when it does."""
    try:
        awaited = way.send(None)
    except StopIteration:
        return None
    errand = Errand(way, loop, ended)
    if awaited is _WHO:
        errand.go_on(errand)
    else:
        errand.wait(awaited)
    error, errand.error = errand.error, None
    if error is not None:
        raise error
    return None if errand.over else errand


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
    """Lets a callback break off one awaited section, as `asyncio.timeout` does for a deadline.
    `reason` is what the section then ends with."""

    reason: Exception | None = None
    _runner: Errand | asyncio.Task[Any] | None = None
    _cancelling = 0  # times that others have cancelled it
    _cancelled = False

    def holding(self, runner: Errand | asyncio.Task[Any]) -> Leash:
        """For `with`: the section is what this `runner` goes on with."""
        self._runner = runner
        return self

    def pull(self, reason: Exception) -> None:
        """Break off. From within the section it takes effect at the next `check`, or await."""
        if self.reason is not None:
            return
        self.reason, runner = reason, self._runner
        if runner is not None and asyncio.current_task() is not runner:
            self._cancelling = runner.cancelling()
            self._cancelled = runner.cancel()

    def check(self) -> None:
        """Raise the reason if it was pulled; call before each await."""
        if self.reason is not None:
            raise self.reason

    def __enter__(self) -> Leash:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        runner, self._runner = self._runner, None
        if not self._cancelled or runner is None:
            return
        mine = runner.uncancel() <= self._cancelling and kind is asyncio.CancelledError
        if mine and self.reason is not None:
            raise self.reason from None
