"""The Grafana dashboards, built from the table of metrics: `python -m tools.dashboards NAME`.

Every query is put together by `queries.py`, which knows the table: a family or label that is not in
it, or a quantile of what is no histogram, fails the build. `tools/generated` writes dashboards/.
"""
