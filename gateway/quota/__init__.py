"""Quotas: what a key or a team may still use, true at any concurrency."""
