"""The file of results: machine, rounds of each side, figures. docs/benchmarks.md is made of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.scene import Scene


def write(path: Path, scene: Scene, machine: dict[str, object]) -> None:
    """Write the results, replacing those of the cases that were run and keeping the others."""
    said: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    cases: dict[str, Any] = said.get("cases", {})
    for name in {figure.case for figure in scene.figures} | set(scene.rounds):
        found = scene.rounds.get(name)
        sides = {} if found is None else found.samples
        cases[name] = {
            "machine": machine,
            "figures": [rounded(figure) for figure in scene.figures if figure.case == name],
            "sides": {
                side: [{k: round(v, 2) for k, v in asdict(sample).items()} for sample in samples]
                for side, samples in sides.items()
            },
        }
    path.write_text(json.dumps({"cases": cases}, indent=1) + "\n", "utf-8")


def rounded(figure: Figure) -> dict[str, Any]:
    said = asdict(figure)
    said["values"] = [round(value, 4) for value in figure.values]
    return said


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote."""
    said: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return said
