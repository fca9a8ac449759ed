"""Balances from the ledger: what accounts used in windows that are still open, at a start.

Rule: what is not in the ledger was not used. Pure: rows in, figures out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable

from gateway.exchange import CallerKind
from gateway.keys.rules import ANONYMOUS
from gateway.ports import Upstream
from gateway.quota.account import CALLER, KEY, SHARED, TEAM, AccountKey
from gateway.quota.store import Spent
from gateway.quota.windows import MONEY, PERIODS, REQUESTS, TOKENS
from gateway.usage.reader import OpenWindows


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
