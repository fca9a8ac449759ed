"""Calls of an upstream: relayed, kept, streamed."""

from __future__ import annotations

from tests.bench import machine
from tests.bench.figures import Figure
from tests.bench.hits import only
from tests.bench.load import Load, Watch, told
from tests.bench.material import BULK, PACED, SLOW, template
from tests.bench.scene import NO_STORE, Scene
from tests.bench.sides import Side


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


def ttfb(scene: Scene) -> None:
    """One connection: what is added to the time until a stream's first byte."""
    watch = Watch("ttfb", template(BULK, stream=True), headers=NO_STORE)
    bare = scene.reference("relay", scene.streams, "bare relay of streams")
    found = scene.take_turns(
        "ttfb",
        {
            "gateway": (scene.product, watch),
            "bare relay": (bare, watch),
            "no proxy": (scene.streams, watch),
        },
    )
    pairs = zip(found.of("gateway", "p50"), found.of("bare relay", "p50"), strict=True)
    added = [(one - other) / 1000 for one, other in pairs]
    what = "added time to first byte at 1 connection, p50"
    scene.figure(Figure("ttfb", what, added, "ms", 0.5, 0.2, most=True))


Headers = tuple[tuple[str, str], ...]

PACED_STREAMS = 200


def paced(scene: Scene) -> None:
    """200 streams of 40 events a second, as models write them."""
    watch = Watch("paced", template(PACED, stream=True), PACED_STREAMS, NO_STORE)
    bare = scene.reference("relay", scene.streams, "bare relay of streams")
    found = scene.take_turns(
        "paced",
        {
            "gateway": (scene.product, watch),
            "bare relay": (bare, watch),
            "no proxy": (scene.streams, watch),
        },
    )
    what = "paced streams, CPU per event, against the bare relay"
    ratios = found.ratios("gateway", "bare relay", "cpu")
    scene.figure(Figure("paced", what, ratios, "x", 1.3, 1.0, most=True))
    what = "paced streams, added latency of an event, p99"
    for side, name, bound in (("gateway", "", 10.0), ("bare relay", ", of the bare relay", None)):
        pairs = zip(found.of(side, "p99"), found.of("no proxy", "p99"), strict=True)
        added = [(one - other) / 1000 for one, other in pairs]
        scene.figure(Figure("paced", what + name, added, "ms", bound, bound, most=True))


OPEN_STREAMS, QUICK_STREAMS, WARM_STREAMS = 800, 200, 50


def opened(scene: Scene) -> None:
    """Memory of each open stream, of a fresh process that has had some streams before."""
    count = QUICK_STREAMS if scene.pace.quick else OPEN_STREAMS
    what = "open streams, memory of each"

    def measure(side: Side, name: str, headers: Headers, *bounds: float) -> None:
        scene.say(f"open: {count} streams{name}")
        body = template(SLOW, stream=True)
        held(Watch("open", body, WARM_STREAMS, headers), side)
        more = held(Watch("open", body, count, headers), side) / count / 1000
        floor, goal = bounds or (None, None)
        scene.figure(Figure("open", what + name, [more], "kB", floor, goal, most=True))

    # Each in a fresh process: what an earlier stream gave back would be taken for nothing.
    with scene.own_product("open", {}) as product:
        measure(product, "", NO_STORE, 40.0, 25.0)
    with scene.own_product("kept", {}) as product:
        measure(product, ", of one that is kept", ())
    bare = scene.reference("relay", scene.streams, "bare relay of open streams")
    measure(bare, ", of the bare relay", NO_STORE)


def held(watch: Watch, side: Side) -> int:
    """Bytes of memory that a side has more while these streams are open."""
    before = machine.resident(side.pids[0])
    with watch.started(side) as client:
        told(side, client, "open")
        more = machine.resident(side.pids[0]) - before
        assert client.stdin is not None
        client.stdin.close()
    return more
