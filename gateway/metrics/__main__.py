"""`python -m gateway.metrics --markdown` prints docs/metrics.md."""

import sys

from gateway.metrics.page import markdown

if sys.argv[1:] != ["--markdown"]:
    sys.exit("usage: python -m gateway.metrics --markdown")
sys.stdout.write(markdown())
