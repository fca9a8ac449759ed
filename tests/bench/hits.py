"""Hits from memory: beside the bare handler, beside nginx, large bodies, replayed streams."""

from __future__ import annotations

from collections import Counter

from tests.bench.figures import Figure
from tests.bench.load import Load
from tests.bench.material import BULK, template
from tests.bench.scene import Scene
from tests.bench.sides import Product

PADDING = 30_000  # bytes
PADDED = 500  # distinct bodies of that size


def hit(scene: Scene) -> None:
    """1,000 bodies, 32 connections."""
    load = Load(template())
    handler = scene.reference("handler", scene.fixed, "bare handler")
    finished = scene.reference("finished", scene.fixed, "finished writer")
    nginx, product = scene.nginx("cache", scene.fixed), scene.product
    for side in (handler, finished, nginx, product):
        scene.fill(side, load.template)
    before = product.states()
    found = scene.take_turns(
        "hit",
        {
            "gateway": (product, load),
            "bare handler": (handler, load),
            "finished writer": (finished, load),
            "nginx proxy_cache": (nginx, load),
        },
    )
    only(product, before, "hit")
    for other, what, *bounds in (
        ("bare handler", "hit from memory, against the bare handler", 0.9, 1.25),
        ("nginx proxy_cache", "the same, against nginx proxy_cache", 0.2, 0.5),
        ("finished writer", "the same, against the finished-reply writer"),
    ):
        scene.figure(found.versus("hit", what, ("gateway", other), *bounds))


def hit1(scene: Scene) -> None:
    """One connection: what one caller waits."""
    load = Load(template(), connections=1)
    nginx, product = scene.nginx("cache", scene.fixed), scene.product
    for side in (nginx, product):
        scene.fill(side, load.template)
    found = scene.take_turns(
        "hit1", {"gateway": (product, load), "nginx proxy_cache": (nginx, load)}
    )
    ratios = found.ratios("gateway", "nginx proxy_cache", "p50")
    what = "hit at 1 connection, p50, against nginx's"
    scene.figure(Figure("hit1", what, ratios, "x", 3.0, 1.5, most=True))


def body(scene: Scene) -> None:
    """What 30 KB more of a request cost a hit."""
    small, large = Load(template()), Load(template(padding=PADDING), count=PADDED)
    product, handler = scene.product, scene.reference("handler", scene.fixed, "bare handler")
    for side in (product, handler):
        scene.fill(side, small.template)
        scene.fill(side, large.template, PADDED)
    found = scene.take_turns(
        "body",
        {
            "gateway, 30 KB": (product, large),
            "gateway": (product, small),
            "bare handler, 30 KB": (handler, large),
            "bare handler": (handler, small),
        },
    )
    for name, floor, goal in (("gateway", 50.0, 25.0), ("bare handler", None, None)):
        # CPU, not rates: the difference of two rates is mostly noise where cores are shared.
        pairs = zip(found.of(f"{name}, 30 KB", "cpu"), found.of(name, "cpu"), strict=True)
        extra = [one - other for one, other in pairs]
        what = "30 KB of request body, extra CPU per hit" + ("" if floor else f", {name}")
        scene.figure(Figure("body", what, extra, "us", floor, goal, most=True))


def replay(scene: Scene) -> None:
    """A kept stream of 103 events beside a kept JSON answer."""
    json, stream = Load(template()), Load(template(BULK, stream=True))
    product = scene.product
    for load in (json, stream):
        scene.fill(product, load.template)
    before = product.states()
    found = scene.take_turns("replay", {"stream": (product, stream), "JSON": (product, json)})
    only(product, before, "hit")
    what = "stream replay of 103 events, against the JSON hit"
    scene.figure(found.versus("replay", what, ("stream", "JSON"), 0.85, 1.0))


STRAYS = 0.01  # of the requests; a disk that is late is a miss


def only(product: Product, before: Counter[str], state: str) -> None:
    """The requests since were of this state, or what was measured is something else."""
    since = product.states() - before
    if since[state] < (1 - STRAYS) * since.total():
        raise RuntimeError(f"these were to be {state}: {dict(since)}")
