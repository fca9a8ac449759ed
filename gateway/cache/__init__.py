"""Answers kept for equal requests: what may be kept (rules), and where (store, memory, disk)."""
