"""Metrics: the table of what there is (`table.py`) and the sink that counts it (`sink.py`)."""

from gateway.metrics.sink import (
    Metrics,
    Snapshot,
    Value,
    literal_models,
    standard_registry,
    upstream_outcome,
)
from gateway.metrics.table import SPECS, TABLE, Labels, Spec, markdown

__all__ = [
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
