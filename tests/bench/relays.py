"""Calls of an upstream: relayed, kept, streamed."""

from __future__ import annotations

from tests.bench.hits import only
from tests.bench.load import Load
from tests.bench.material import BULK, template
from tests.bench.scene import NO_STORE, Scene


def relay(scene: Scene) -> None:
    """JSON, nothing looked up or kept; and a miss that is kept."""
    load = Load(template(), NO_STORE)
    bare, nginx = (
        scene.reference("relay", scene.fixed, "bare relay"),
        scene.nginx("proxy", scene.fixed),
    )
    product = scene.product
    before = product.states()
    found = scene.take_turns(
        "relay",
        {
            "gateway": (product, load),
            "bare relay": (bare, load),
            "nginx proxy_pass": (nginx, load),
        },
    )
    only(product, before, "bypass")
    for other, what, *bounds in (
        ("bare relay", "relay, nothing kept, against the bare relay", 0.75, 1.0),
        ("nginx proxy_pass", "the same, against nginx proxy_pass"),
    ):
        scene.figure(found.versus("relay", what, ("gateway", other), *bounds))


def miss(scene: Scene) -> None:
    """Each body is new, and its answer is kept."""
    fresh, load = Load(template(), mode="fresh"), Load(template(), NO_STORE)
    bare, product = scene.reference("relay", scene.fixed, "bare relay"), scene.product
    before = product.states()
    found = scene.take_turns("miss", {"gateway": (product, fresh), "bare relay": (bare, load)})
    only(product, before, "miss")
    what = "miss that is kept, against the bare relay"
    scene.figure(found.versus("miss", what, ("gateway", "bare relay"), 0.45, 0.75))


def bulk(scene: Scene) -> None:
    """Streams of 103 events as fast as they go."""
    load = Load(template(BULK, stream=True), NO_STORE)
    bare = scene.reference("relay", scene.streams, "bare relay of streams")
    product, nginx = scene.product, scene.nginx("proxy", scene.streams)
    found = scene.take_turns(
        "bulk",
        {
            "gateway": (product, load),
            "bare relay": (bare, load),
            "nginx proxy_pass": (nginx, load),
        },
    )
    what = "bulk streams, against the bare relay"
    scene.figure(found.versus("bulk", what, ("gateway", "bare relay"), 0.85, 1.0))
