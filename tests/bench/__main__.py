"""`python -m tests.bench`: every measurement of this folder, one after the other."""

from __future__ import annotations

import sys

from tests.bench import joins, ledger, start

if __name__ == "__main__":
    sys.exit(0 if all([start.main(), joins.main(), ledger.main()]) else 1)
