"""Metrics: the table of what there is (`table.py`) and the sink that counts it (`sink.py`)."""

from gateway.metrics.lanes import upstream_outcome
from gateway.metrics.names import literal_models
from gateway.metrics.page import markdown
from gateway.metrics.sink import Metrics, standard_registry
from gateway.metrics.spec import Labels, Spec
from gateway.metrics.store import Exemplars, Snapshot, Value
from gateway.metrics.table import ROOMS, SPECS, TABLE

__all__ = [
    "ROOMS",
    "SPECS",
    "TABLE",
    "Exemplars",
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
