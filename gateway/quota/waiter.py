"""A call that waits for open reservations to settle: first come, first served.

Rule: it is woken by whoever gives back, within that one's step, and takes what it waits for there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gateway.exchange import Bound
from gateway.leash import own_task
from gateway.quota.account import Account
from gateway.quota.rules import Decision, Step


class Asker(Protocol):
    """The permit of the call."""

    @property
    def spending(self) -> list[Account]:
        """Accounts with a limit on tokens or money."""

    def decide(self, bound: Bound, *, patient: bool) -> Decision:
        """What its limits say at this moment."""

    def act(self, bound: Bound, decision: Decision) -> None:
        """Hold what was decided just now."""

    def line_up(self, places: int) -> None:
        """So many places more are taken by those who wait."""

    def wake(self) -> None:
        """Those behind may go on."""


class Waiter:
    """A call that waits for open reservations to settle. It holds nothing meanwhile."""

    __slots__ = ("_bound", "_future", "_permit", "accounts", "went")

    def __init__(self, permit: Asker, bound: Bound) -> None:
        self._permit, self._bound = permit, bound
        self.accounts: Sequence[Account] = permit.spending
        self._future: asyncio.Future[None] | None = None
        self.went = False

    def may_go(self) -> bool:
        """Nobody who came before it waits for any of its accounts."""
        return all(not one.waiting or one.waiting[0] is self for one in self.accounts)

    def try_now(self) -> bool:
        """Take what it waits for, or hear that it will never fit; False: there is no room yet."""
        decision = self._permit.decide(self._bound, patient=True)
        if decision.step is Step.WAIT:
            return False
        if decision.step is not Step.REFUSE:
            self.went = True
            self._permit.act(self._bound, decision)
        self._leave()
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        return True

    async def wait(self, seconds: float) -> None:
        """Until it went or was refused, at most so long."""
        self._future = asyncio.get_running_loop().create_future()
        for account in self.accounts:
            account.waiting.append(self)
        self._permit.line_up(len(self.accounts))
        try:
            await own_task()
            async with asyncio.timeout(seconds):
                await self._future
        except TimeoutError:
            pass

    def leave(self) -> None:
        """Give up its place."""
        self._leave()
        self._permit.wake()

    def _leave(self) -> None:
        for account in self.accounts:
            if self in account.waiting:
                account.waiting.remove(self)
                self._permit.line_up(-1)
