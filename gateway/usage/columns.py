"""The columns of the ledger's rows, and which of them are bound where a row is a short one. Pure.

Rule: a row holds what sqlite3 binds in 20 to 70 ns (`rows.py`), and no None; so what stands for
NULL is of another type than the column's: see `null`.
"""

from __future__ import annotations

from gateway.exchange import Outcome, UsageSource

FOUND_BY = ("key", "model", "cache")  # what rows are looked for by
SERIES = ("key_id", "key", "team_id", "team", "model", "upstream", "tags")  # and added up by

# What stands for NULL, and what may not be one, is in `migrations.py`.
COLUMNS = {
    "id": "TEXT NOT NULL UNIQUE",  # the request's ULID
    "at": "INTEGER NOT NULL",  # of its arrival, milliseconds since the epoch
    "key_id": "TEXT NOT NULL",
    "key": "TEXT NOT NULL",  # its name
    "team_id": "TEXT",
    "team": "TEXT",  # its name
    "tags": "TEXT",  # a JSON object, names sorted
    "model": "TEXT",  # as asked
    "model_served": "TEXT",  # as sent upstream
    "upstream": "TEXT",
    "upstream_request_id": "TEXT",
    "endpoint": "TEXT NOT NULL",
    "stream": "INTEGER NOT NULL",
    "status": "INTEGER NOT NULL",
    "outcome": "TEXT NOT NULL",
    "error": "TEXT",
    "cache": "TEXT NOT NULL",
    "cache_key": "TEXT",  # 16 hex digits
    "prompt_tokens": "INTEGER NOT NULL",
    "completion_tokens": "INTEGER NOT NULL",
    "cached_tokens": "INTEGER NOT NULL",
    "reasoning_tokens": "INTEGER NOT NULL",
    "usage_source": "TEXT NOT NULL",
    "cost_nano": "INTEGER",  # 10^-9 dollars; NULL: not known
    "saved_tokens": "INTEGER NOT NULL",
    "saved_cost_nano": "INTEGER",
    "admitted_ms": "REAL",  # milliseconds from the arrival
    "looked_up_ms": "REAL",
    "connected_ms": "REAL",
    "first_byte_ms": "REAL",
    "last_byte_ms": "REAL",
    "booked_ms": "REAL",
    "total_ms": "REAL NOT NULL",
    "overhead_ms": "REAL NOT NULL",
    "bytes_in": "INTEGER NOT NULL",
    "bytes_out": "INTEGER NOT NULL",
    "attempts": "INTEGER NOT NULL",
    "finish_reasons": "TEXT",  # with commas
    "price_version": "TEXT",
    "corrects": "TEXT",  # the id of the row that this one's figures are added to; it is no request
    "counted": "INTEGER NOT NULL",  # 1: against limits on requests
    "counted_tokens": "INTEGER NOT NULL",  # against limits on tokens
    "clamped": "INTEGER",  # the output cap that it was lowered to
    "bound_exceeded": "INTEGER NOT NULL",  # 1: it took more than was reserved
}


HELD = {
    "id": "TEXT NOT NULL UNIQUE",  # the request's ULID
    "at": "INTEGER NOT NULL",
    "until": "INTEGER NOT NULL",
    "boot": "TEXT NOT NULL",  # the process that holds it
    "key_id": "TEXT NOT NULL",
    "key": "TEXT NOT NULL",
    "team_id": "TEXT",
    "team": "TEXT",
    "model": "TEXT NOT NULL",
    "upstream": "TEXT",
    "prompt_tokens": "INTEGER NOT NULL",
    "completion_tokens": "INTEGER NOT NULL",
    "nano_usd": "INTEGER NOT NULL",
    "prompt_nano_usd": "INTEGER",
}


# Of a hit whose kind came before (`Kind`, `Mold`): what differs, what is the same where the
# recording is, and what is the same in every hit; all else is the same in those of one kind. Of its
# time, all is the gateway's own.
DIFFERS = (
    "id",
    "at",
    "tags",
    "admitted_ms",
    "looked_up_ms",
    "total_ms",
    "counted",
    "counted_tokens",
)
OF_ANY_HIT = {
    "error": "NULL",
    "prompt_tokens": "0",
    "completion_tokens": "0",
    "cached_tokens": "0",
    "reasoning_tokens": "0",
    "cost_nano": "0",
    "connected_ms": "NULL",
    "first_byte_ms": "NULL",
    "last_byte_ms": "NULL",
    "booked_ms": "total_ms",
    "overhead_ms": "total_ms",
    "attempts": "0",
    "corrects": "NULL",
    "clamped": "NULL",
    "bound_exceeded": "0",
}
RECORDED = (
    "cache_key",
    "saved_tokens",
    "saved_cost_nano",
    "bytes_in",
    "bytes_out",
    "finish_reasons",
    "price_version",
)
OF_KIND = tuple(name for name in COLUMNS if name not in {*DIFFERS, *RECORDED, *OF_ANY_HIT})
AGAIN = (*DIFFERS, *RECORDED, *OF_KIND)


# Of a call that went well, for a caller without tags: what is the same in all of them.
OF_ANY_CALL = {
    "tags": "NULL",
    "outcome": f"'{Outcome.OK}'",
    "error": "NULL",
    "usage_source": f"'{UsageSource.UPSTREAM}'",
    "saved_tokens": "0",
    "saved_cost_nano": "0",
    "booked_ms": "total_ms",
    "corrects": "NULL",
    "clamped": "NULL",
    "bound_exceeded": "0",
}
CALL = tuple(name for name in COLUMNS if name not in OF_ANY_CALL)
# Never NULL in it.
SURE = frozenset({"cost_nano", "price_version", "connected_ms", "first_byte_ms", "last_byte_ms"})


def null(kind: str) -> int | str:
    """What stands for NULL in a row, by its column's kind: no text is a number, no number a text.
    Where there is no NULL, nothing: 0."""
    return "" if "NOT NULL" not in kind and not kind.startswith("TEXT") else 0
