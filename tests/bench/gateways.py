"""LiteLLM and Portkey beside the gateway, where they are installed; they never are by us.

`litellm` on the PATH, or LITELLM=its path; `@portkey-ai/gateway` among npm's global packages, or
PORTKEY=the path of its build/start-server.js. One process each, nothing logged, no key checked;
LiteLLM keeps answers in its memory, Portkey keeps none.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.bench import machine, sides
from tests.bench.load import Load
from tests.bench.material import BULK, FIXED, template
from tests.bench.scene import NO_STORE, Scene
from tests.bench.sides import Side

SLOW = 8.0  # seconds of a go: some answer four streams a second
PACKAGE = "@portkey-ai/gateway/build/start-server.js"


def others(scene: Scene) -> None:
    """Hits, relays and streams of whichever is here."""
    hit, fresh = Load(template()), Load(template(), mode="fresh")
    relay, stream = Load(template(), NO_STORE), Load(template(BULK, stream=True), NO_STORE)
    product, found = scene.product, False
    if program := os.environ.get("LITELLM") or machine.which("litellm"):
        found = True
        with litellm(scene, program) as side:
            for other in (product, side):
                scene.fill(other, hit.template, 200)
            compare(scene, side, "hits", Load(template(), count=200), Load(template(), count=200))
            compare(scene, side, "misses that are kept", fresh, fresh)
            compare(scene, side, "streams of 103 events", stream, stream)
    if program := os.environ.get("PORTKEY") or portkey_here():
        found = True
        for upstream, what, load in (
            (scene.fixed, "relays", relay),
            (scene.streams, "streams of 103 events", stream),
        ):
            with portkey(scene, program, upstream) as side:
                compare(scene, side, what, load, load)
    if not found:
        print("others: neither LiteLLM nor Portkey is installed")


def compare(scene: Scene, side: Side, what: str, ours: Load, theirs: Load) -> None:
    """A row: the gateway against another one."""
    case = f"others: {side.name}, {what}"
    goes = {"gateway": (scene.product, ours), side.name: (side, theirs)}
    rounds = scene.take_turns(case, goes, SLOW)
    scene.figure(rounds.versus(case, f"against {side.name}", ("gateway", side.name)))


@contextlib.contextmanager
def litellm(scene: Scene, program: str) -> Iterator[Side]:
    """LiteLLM's proxy, without a key, with its answers kept in memory."""
    ways = ((FIXED, scene.fixed), (BULK, scene.streams))
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"http://127.0.0.1:{upstream.port}/v1",
                "api_key": "none",
            },
        }
        for name, upstream in ways
    ]
    settings = {
        "model_list": models,
        "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    config = scene.folder / "litellm.yaml"
    config.write_text(yaml.dump(settings), "utf-8")
    port = sides.free_port()
    words = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with sides.running(words, machine.SERVER, scene.folder, "litellm") as pid:
        sides.wait_for(port, scene.folder / "litellm.log", 120.0)
        yield Side("LiteLLM", port, [pid])


@contextlib.contextmanager
def portkey(scene: Scene, program: str, upstream: Side) -> Iterator[Side]:
    """Portkey's gateway in front of one upstream."""
    port = sides.free_port()
    words = ["node", program, f"--port={port}", "--headless"]
    with sides.running(words, machine.SERVER, scene.folder, "portkey") as pid:
        sides.wait_for(port, scene.folder / "portkey.log", 60.0)
        headers = (
            ("Authorization", "Bearer none"),
            ("x-portkey-provider", "openai"),
            ("x-portkey-custom-host", f"http://127.0.0.1:{upstream.port}/v1"),
        )
        yield Side("Portkey", port, [pid], headers)


def portkey_here() -> str | None:
    """Portkey among npm's global packages."""
    npm = machine.which("npm")
    if npm is None:
        return None
    done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False)
    path = Path(done.stdout.strip(), PACKAGE)
    return str(path) if path.exists() else None
