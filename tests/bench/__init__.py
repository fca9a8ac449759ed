"""Measurements of the real process; `make bench` runs them all and fails below a floor."""
