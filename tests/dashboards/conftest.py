"""The scripted upstream and a port where nobody listens, as the tests of e2e have them."""

from tests.e2e.conftest import closed_port, up

__all__ = ["closed_port", "up"]
