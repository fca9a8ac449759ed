"""Metrics: the table of what there is (`table.py`) and the sink that counts it (`sink.py`)."""

from gateway.metrics.page import markdown
from gateway.metrics.sink import (
    Metrics,
    Snapshot,
    Value,
    literal_models,
    standard_registry,
    upstream_outcome,
)
from gateway.metrics.spec import Labels, Spec
from gateway.metrics.table import ROOMS, SPECS, TABLE

__all__ = [
    "ROOMS",
    "SPECS",
    "TABLE",
    "Labels",
    "Metrics",
    "Snapshot",
    "Spec",
    "Value",
    "literal_models",
    "markdown",
    "standard_registry",
    "upstream_outcome",
]
