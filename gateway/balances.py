"""Balances from the ledger: what accounts used in windows that are still open, at a start, and of
callers without an issued key when `quota.default` begins to hold for them.

Rule: what is not in the ledger was not used.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Container, Iterable

from gateway.config import Quota as QuotaSection
from gateway.exchange import CallerKind
from gateway.keys.rules import ANONYMOUS
from gateway.ports import Clock, Upstream
from gateway.quota.account import CALLER, KEY, SHARED, TEAM, AccountKey
from gateway.quota.store import Quotas, Spent
from gateway.quota.windows import MONEY, PERIODS, REQUESTS, TOKENS
from gateway.usage.reader import OpenWindows, Reader

log = logging.getLogger("gateway.quota")


class Balances:
    """Brings the ledger's figures into the quotas."""

    def __init__(
        self,
        quotas: Quotas,
        books: Reader,
        clock: Clock,
        issued: Callable[[], Container[str]],
        upstreams: Callable[[], Iterable[Upstream]],
    ) -> None:
        """`issued` gives the ids of issued keys."""
        self._quotas, self._books, self._clock = quotas, books, clock
        self._issued, self._upstreams = issued, upstreams
        self._beginning: asyncio.Task[None] | None = None

    async def restore(self) -> None:
        """At a start, before the first request. LedgerError."""
        self._quotas.restore(await self._pasts())

    async def _pasts(self) -> dict[AccountKey, Spent]:
        now = self._clock.now()
        found = await self._books.open_windows(now)
        return pasts(found, now, self._issued(), self._upstreams())

    def reconfigure(self, section: QuotaSection) -> None:
        """Take a new section. Callers without an issued key are not counted while no limit holds
        for them; the first one holds as soon as their past is known."""
        if self._beginning is not None:
            self._beginning.cancel()
        if section.default.by_name and not self._quotas.counts_strangers:
            self._beginning = asyncio.get_running_loop().create_task(self._begin(section))
        else:
            self._quotas.reconfigure(section)

    async def _begin(self, section: QuotaSection) -> None:
        past: dict[AccountKey, Spent] = {}
        try:
            past = await self._pasts()
        except OSError as error:
            log.warning("quota.default begins with nothing used: %s", error)
        self._quotas.reconfigure(section)
        self._quotas.restore_strangers(past)

    async def close(self) -> None:
        """Nothing begins any more."""
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait({self._beginning})


def pasts(
    found: OpenWindows, now: float, issued: Container[str], upstreams: Iterable[Upstream] = ()
) -> dict[AccountKey, Spent]:
    """By account. `issued` are the ids of issued keys; `now` in wall seconds."""
    by_name = {upstream.name: upstream for upstream in upstreams}

    def accounts(key: str, team: str | None, upstream: str | None) -> list[AccountKey]:
        if key in issued:
            return [(KEY, key)] + ([(TEAM, team)] if team else [])
        kind = CallerKind.ANONYMOUS if key == ANONYMOUS.id else CallerKind.PASSTHROUGH
        shared = by_name.get(upstream or "")
        return [(SHARED, "") if shared is not None and shared.shared_by(kind) else (CALLER, key)]

    past: defaultdict[AccountKey, Spent] = defaultdict(Spent)
    for span, by_series in found.spent.items():
        for (key, team, upstream), spent in by_series.items():
            figures = {REQUESTS: spent.requests, TOKENS: spent.tokens, MONEY: spent.nano_usd}
            for account in accounts(key, team, upstream):
                _add(past[account], figures, span)
    for at, key, team, upstream, counted, tokens in sorted(found.minute):
        for account in accounts(key, team, upstream):
            past[account].minute.append((now - at, counted, tokens))
    for held in found.held:  # a crash left it, and no server has booked it yet
        tokens = held.prompt_tokens + held.completion_tokens
        for account in accounts(held.key_id, held.team_id, held.upstream):
            for span, unit in PERIODS:
                if unit != REQUESTS and held.at >= found.starts.get(span, 0):
                    figures = {TOKENS: tokens, MONEY: held.nano_usd}
                    _add(past[account], {unit: figures[unit]}, span)
    return dict(past)


def _add(past: Spent, figures: dict[str, int], span: str) -> None:
    for unit, figure in figures.items():
        if (span, unit) in PERIODS:
            past.periods[span, unit] = past.periods.get((span, unit), 0) + figure
