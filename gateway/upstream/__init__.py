"""Upstreams: who serves which model, for whom, and how the call is made.

`build` makes one of its section in the configuration.
"""

from __future__ import annotations

from gateway.config import UpstreamSection
from gateway.config.addresses import is_echo
from gateway.ports import Clock
from gateway.upstream.client import HTTPUpstream
from gateway.upstream.echo import EchoUpstream


def build(
    section: UpstreamSection, *, instance_id: str, clock: Clock
) -> HTTPUpstream | EchoUpstream:
    """The upstream that `section` describes. ValueError: its CA file or proxy cannot be used."""
    if is_echo(section.base_url):
        return EchoUpstream(section, clock=clock)
    return HTTPUpstream(section, instance_id=instance_id, clock=clock)
