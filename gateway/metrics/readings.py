"""What is read at each scrape, where a room keeps the numbers itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from gateway.metrics.spec import Labels
from gateway.metrics.store import Snapshot
from gateway.metrics.table import SPECS

Read = Callable[[], Mapping[Labels, float]]

log = logging.getLogger("gateway.metrics")


class Readings:
    """Who is asked, for which family. One that fails is said and left out: a broken gauge must not
    blind whoever looks for the reason."""

    def __init__(self) -> None:
        self._readers: dict[tuple[str, Labels | None], Read] = {}

    def add(self, name: str, read: Read, labels: Labels | None = None) -> None:
        """`read` in the place of what was read before for that family, or series of it. KeyError:
        no such family."""
        self._readers[SPECS[name].name, labels] = read

    def into(self, taken: Snapshot) -> None:
        """Put what is read into a snapshot."""
        for (name, _), read in self._readers.items():
            try:
                taken[name].update(read())
            except Exception:
                log.exception("%s cannot be read", name)


def labels_of(name: str, labels: Mapping[str, str]) -> Labels:
    """The values in the family's order. KeyError: it has other labels, or there is none such."""
    names = SPECS[name].labels
    if set(names) != set(labels):
        raise KeyError(f"{name} has the labels ({', '.join(names)})")
    return tuple(labels[label] for label in names)
