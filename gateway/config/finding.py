"""What a check of the configuration finds, and the check that every section has."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve, field, frozen

from gateway.config.document import Way


@frozen
class Finding:
    """A rule that is broken, where it shows, and which other values it rests on."""

    way: Way
    message: str
    others: tuple[Way, ...] = field(default=())

    def below(self, *way: str | int) -> Finding:
        others = tuple((*way, *other) for other in self.others)
        return evolve(self, way=(*way, *self.way), others=others)


Findings = Iterator[Finding]


def positive(section: object, *names: str) -> Findings:
    """Those of the section's values that are there are above 0."""
    for name in names:
        if (value := getattr(section, name)) is not None and value <= 0:
            yield Finding((name,), "must be above 0")
