"""A caching, logging reverse proxy in front of OpenAI-compatible chat completions.

Glossary. Five words carry the design; each names one thing everywhere in the code.

Flight     One call to an upstream, owned by the house and not by a client. It is launched by
           the first request, may be boarded by equal ones, and ends exactly once: landed or lost.
Recording  What a flight brought: the head and the chunks, byte for byte as the upstream sent
           them. A cached answer is the recording of a flight that has landed.
Permit     What admission hands out: the right to make one call, with its tokens and money
           reserved. It is settled to the truth or given back, once, however the request ends.
Exchange   The finished story of one request: who asked what, what came of it, its usage and
           times. There is exactly one for each request, whatever ended it.
Sink       Whoever is told of each Exchange: the ledger, the journal, the metrics, the access log.

Read `pipeline.py` first: it is the way of one request, top to bottom.
"""

__version__ = "0.1.0"
