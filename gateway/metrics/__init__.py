"""Metrics: the table of what there is (`table.py`) and the sink that counts it (`sink.py`)."""

from gateway.metrics.lag import LoopLag
from gateway.metrics.lanes import upstream_outcome
from gateway.metrics.names import literal_models
from gateway.metrics.page import markdown
from gateway.metrics.sink import Metrics, standard_registry
from gateway.metrics.spec import Labels, Spec
from gateway.metrics.store import Exemplars, Snapshot, Value
from gateway.metrics.table import ROOMS, SPECS, TABLE
from gateway.metrics.text import render

__all__ = [
    "ROOMS",
    "SPECS",
    "TABLE",
    "Exemplars",
    "Labels",
    "LoopLag",
    "Metrics",
    "Snapshot",
    "Spec",
    "Value",
    "literal_models",
    "markdown",
    "render",
    "standard_registry",
    "upstream_outcome",
]
