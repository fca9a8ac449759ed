"""What a line of the table of metrics is: one family and its buckets. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MODELS = 200  # names an upstream answered, beyond the configured ones (M1)
KEYS = 200  # names of passthrough callers, beyond the aliases
SERIES = 2000  # of one family
PAIRS = 1000  # of a key and a model, which have their series from the start

DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 120, 300)
PER_TOKEN = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
OVERHEAD = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
DISK = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
AGE = (1, 10, 60, 300, 1800, 3600, 21_600, 86_400, 604_800, 2_592_000)
WAIT = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
TOKENS = tuple(4**n for n in range(12))  # 1 to 4,194,304
BYTES = tuple(256 * 4**n for n in range(9))  # 256 B to 16 MiB

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One family. `buckets` are upper bounds, inclusive; a type with buckets is a histogram. A
    summary has no quantiles: what happened, and how much it was in all."""

    name: str
    type: str  # counter, gauge, histogram, summary
    labels: Labels
    help: str
    buckets: tuple[float, ...] = ()


def counter(name: str, labels: str, text: str) -> Spec:
    return Spec(name, "counter", tuple(labels.split()), text)


def gauge(name: str, labels: str, text: str) -> Spec:
    return Spec(name, "gauge", tuple(labels.split()), text)


def summary(name: str, labels: str, text: str) -> Spec:
    return Spec(name, "summary", tuple(labels.split()), text)


def histogram(name: str, labels: str, buckets: tuple[float, ...], text: str) -> Spec:
    return Spec(name, "histogram", tuple(labels.split()), text, buckets)
