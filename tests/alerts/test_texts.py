"""What an alert says, and where it sends who is woken: docs/runbooks.md has a section for each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway import errors
from tests.alerts.promtool import ALERTS, LABEL, QUOTED_LABEL, RECORDED

DOCS = Path(__file__).parents[2] / "docs"
RUNBOOKS = (DOCS / "runbooks.md").read_text("utf-8")
SECTIONS = {
    title: text
    for title, text in re.findall(r"^## (\w+)\n(.*?)(?=^#|\Z)", RUNBOOKS, re.DOTALL | re.MULTILINE)
}


@pytest.fixture(params=list(ALERTS))
def name(request) -> str:
    return request.param


def test_the_runbooks_have_a_section_for_each_alert_in_their_order() -> None:
    assert list(SECTIONS) == list(ALERTS)


def test_a_runbook_says_all_that_one_needs_at_night(name) -> None:
    for part in ("**Look", "**Mend", "**Ignore"):
        assert re.search(rf"^- {re.escape(part)}", SECTIONS[name], re.MULTILINE), part
    assert re.search(r"\*\*(Its u|U)sers\*\*\s", SECTIONS[name])


def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
    link = re.sub(QUOTED_LABEL, "x", rule["annotations"]["dashboard_url"])
    assert re.fullmatch(r"/d/gateway-\w+(\?var-\w+=x(&var-\w+=x)*)", link), link


def test_a_summary_is_one_short_line_without_figures(name) -> None:
    """So that a group of alerts reads well: figures stand in the description."""
    summary = ALERTS[name]["annotations"]["summary"]
    assert len(re.sub(LABEL, "", summary)) <= 60
    assert "$value" not in summary


def test_links_inside_the_runbooks_lead_to_their_sections() -> None:
    for page, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", RUNBOOKS):
        text = (DOCS / page).read_text("utf-8") if page else RUNBOOKS
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert anchor in anchors, f"{page}#{anchor}"


# --- what counts as failed ------------------------------------------------------------------------

# They say what the client asked for, so they are no failures; the last is the admin plane's.
AS_ASKED = {"not_cached", "not_implemented", "storage_error"}
FAILED = re.search(r'reason=~"([^"]+)"', RECORDED["job:gateway_requests_failed:rate5m"]["expr"])


def descendants(kind: type[errors.GatewayError]) -> list[type[errors.GatewayError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in descendants(child))]


def test_each_error_of_the_gateway_s_own_counts_against_the_objective_or_is_the_client_s() -> None:
    assert FAILED is not None
    for kind in descendants(errors.GatewayError):
        counts = re.fullmatch(FAILED[1], kind.code) is not None
        assert counts == (kind.status >= 500 and kind.code not in AS_ASKED), kind.code


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503, 529])
def test_an_upstream_s_status_counts_from_500_on(status) -> None:
    assert FAILED is not None
    assert (re.fullmatch(FAILED[1], f"upstream_{status}") is not None) == (status >= 500)


def test_all_windows_of_the_objective_count_alike() -> None:
    for rule in ("gateway_requests_valid", "gateway_requests_failed", "gateway_slo_errors"):
        found = {
            re.sub(r"(?<=\[)\w+(?=\])|(?<=rate)\d+\w", "W", recorded["expr"])
            for name, recorded in RECORDED.items()
            if f":{rule}:" in name
        }
        assert len(found) == 1, found
