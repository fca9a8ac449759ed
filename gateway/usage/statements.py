"""The statements that rows are inserted with: few forms of them, each compiled once. Pure.

Rule: many rows in one statement, and nothing bound that is the same in all of them: beside a busy
event loop each statement more waits for the interpreter's lock, and each value costs its binding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from gateway.usage.columns import (
    AGAIN,
    CALL,
    COLUMNS,
    FOUND_BY,
    HELD,
    OF_ANY_CALL,
    OF_ANY_HIT,
    OF_KIND,
    SERIES,
    SURE,
    null,
)
from gateway.usage.rows import Row, flat

MANY = 16  # hits of one kind in a batch that have statements of their own

# What a row is found and added up by.
NAMES = (*SERIES, *(name for name in FOUND_BY if name not in SERIES))


class Form:
    """Rows that are bound alike: `bound` are their columns, in order, `fixed` the others' SQL; of
    what is bound, `sure` is never NULL. `shared` are bound once, after all rows."""

    def __init__(
        self,
        table: str,
        kinds: Mapping[str, str],
        bound: Sequence[str],
        fixed: Mapping[str, str] = MappingProxyType({}),
        sure: Collection[str] = (),
        shared: Sequence[str] = (),
    ) -> None:
        self._table, self._kinds, self._fixed, self._sure = table, kinds, fixed, sure
        self._bound, self._shared = bound, shared
        self._inserts: dict[int, str] = {}
        both = [*bound, *shared]
        self.names = [name for name in NAMES if name in both]
        self.named: Callable[[Row], tuple[Any, ...]] = itemgetter(*map(both.index, self.names))

    def insert(self, size: int) -> str:
        """So many at once; what is there already stays."""
        if size not in self._inserts:
            self._inserts[size] = self._statement(size)
        return self._inserts[size]

    def _statement(self, size: int) -> str:
        width, values = len(self._bound), []
        places = {name: f"column{place}" for place, name in enumerate(self._bound, 1)}
        places |= {name: f"?{place}" for place, name in enumerate(self._shared, size * width + 1)}
        for name, kind in self._kinds.items():
            fixed = self._fixed.get(name, "")
            value = places[name] if name in places else places.get(fixed, fixed)
            nullable = name in places and name not in self._sure and "NOT NULL" not in kind
            values.append(f"nullif({value}, {null(kind)!r})" if nullable else value)
        # A reservation that has been settled does not come back.
        settled = "NOT EXISTS (SELECT 1 FROM requests WHERE id = column1)"
        names = ", ".join([f"column{place}" for place in range(1, width + 1)])
        rows = ", ".join([f"({', '.join('?' * width)})"] * size)
        return (
            f"INSERT INTO {self._table} ({', '.join(self._kinds)}) "
            f"WITH given ({names}) AS (VALUES {rows}) SELECT {', '.join(values)} FROM given "
            f"WHERE {settled if self._table == 'reservations' else 'true'} "
            "ON CONFLICT (id) DO NOTHING"
        )


# A row's series is bound last.
_KINDS = COLUMNS | {"series": "INTEGER NOT NULL"}
RESERVATION = Form("reservations", HELD, list(HELD))
FORMS = {  # by the length of their rows
    len(COLUMNS): Form("requests", _KINDS, list(_KINDS)),
    len(CALL): Form("requests", _KINDS, [*CALL, "series"], OF_ANY_CALL, SURE),
    len(AGAIN): Form("requests", _KINDS, [*AGAIN, "series"], OF_ANY_HIT),
}
# Many hits of one kind: what they share is bound once.
OF_ONE_KIND = Form(
    "requests", _KINDS, AGAIN[: -len(OF_KIND)], OF_ANY_HIT, shared=[*OF_KIND, "series"]
)


def sorted_by_form(rows: Sequence[Row]) -> tuple[Mapping[int, list[Row]], list[list[Row]]]:
    """Rows by their length; and apart, where they are many, those of hits of one kind."""
    formed: defaultdict[int, list[Row]] = defaultdict(list)
    kinds: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if type(row[-1]) is tuple:
            kinds[id(row[-1])].append(row)
        else:
            formed[len(row)].append(row)
    for alike in kinds.values():
        if len(alike) < MANY:
            formed[len(AGAIN)].extend(map(flat, alike))
    return formed, [alike for alike in kinds.values() if len(alike) >= MANY]
