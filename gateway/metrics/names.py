"""Which names are labels: those that were configured or earned, never what somebody typed (M1)."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config import UpstreamSection
from gateway.exchange import Caller, CallerKind, Exchange, Outcome
from gateway.metrics.spec import KEYS, MODELS
from gateway.metrics.store import OTHER

NAME = 128  # characters of a model's name
NOBODY = "none"  # no caller's name: the word is reserved (`keys/records.py`)


def literal(names: Iterable[str]) -> frozenset[str]:
    """Those that are names, not patterns."""
    return frozenset(name for name in names if not set("*?[") & set(name))


def literal_models(upstreams: Iterable[UpstreamSection]) -> frozenset[str]:
    """The models that upstreams name themselves, not by a pattern."""
    return literal(name for upstream in upstreams for name in (*upstream.models, *upstream.rename))


class Names:
    """The labels of models and callers: `models` and `callers` are those that are taken as they
    are; for others ask `model` and `key`, which let in what may be, up to a bound."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        self.callers: set[str] = set()
        self._answered: set[str] = set()
        self._strangers: set[str] = set()

    def configure(self, models: Iterable[str], aliases: Iterable[str]) -> None:
        """Names that are labels whatever happens."""
        self.models = {*models, *self._answered}
        self.callers |= set(aliases)

    def model(self, x: Exchange) -> str:
        """The label of a model that was not met: its name, where an upstream has answered it."""
        name = x.model
        answered = x.attempts > 0 and x.status == 200 and x.outcome is Outcome.OK
        if name is None or not answered or len(self._answered) >= MODELS:
            return OTHER
        if len(name) > NAME or not name.isprintable():
            return OTHER
        self._answered.add(name)
        self.models.add(name)
        return name

    def key(self, caller: Caller) -> str:
        """The label of a caller who was not met. Issued names are as many as keys are stored."""
        name = caller.name
        if caller.kind is CallerKind.PASSTHROUGH:
            if len(self._strangers) >= KEYS:
                return OTHER
            self._strangers.add(name)
        self.callers.add(name)
        return name
