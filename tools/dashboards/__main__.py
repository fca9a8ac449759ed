"""`python -m tools.dashboards NAME` prints dashboards/NAME.json."""

import sys

from tools.dashboards.all import DASHBOARDS

if len(sys.argv) != 2 or sys.argv[1] not in DASHBOARDS:
    sys.exit(f"usage: python -m tools.dashboards {'|'.join(DASHBOARDS)}")
sys.stdout.write(DASHBOARDS[sys.argv[1]]().json())
