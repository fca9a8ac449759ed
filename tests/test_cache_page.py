"""docs/cache.md and README.md say of the cache what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.cache.rules import ALL, BYPASSES, REFUSALS, TTL
from gateway.metrics import TABLE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "cache.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")


def table(title: str) -> set[str]:
    """The words in the first column of the table whose head has `title`."""
    rows = PAGE.partition(f"in `{title}`")[2].partition("\n\n")[0].splitlines()[2:]
    return {word for row in rows for word in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1])}


def test_each_reason_stands_in_its_table():
    """D1: a word that is counted is explained, and none that is not."""
    assert table("gateway_cache_bypass_total") == BYPASSES
    assert table("gateway_cache_store_skipped_total") == REFUSALS


def test_each_directive_is_explained():
    """C8."""
    found = set(re.findall(r"^\| `Cache-Control: ([a-z-]+)", PAGE, re.MULTILINE))
    assert found == ALL - {TTL}
    assert "| `X-Gateway-Cache-TTL: SECONDS` |" in PAGE


def test_the_pages_metrics_exist():
    named = set(re.findall(r"`(gateway_[a-z_]+)`", PAGE))
    assert named <= {spec.name for spec in TABLE}


def test_the_first_screen_says_how_to_ask_anew():
    """Issue 3: plainly, before anything else is explained."""
    screen = README.partition("## What it does today")[0]
    assert "Equal requests get the same answer" in screen
    assert "Cache-Control: no-cache" in screen
    assert "`cache.sampled: off`" in screen
