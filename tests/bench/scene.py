"""The sides of all cases, each started when the first case asks for it and kept until the end."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import machine, sides
from tests.bench.figures import Figure, Rounds, in_turn
from tests.bench.load import Load, Sample, Watch
from tests.bench.material import DISTINCT, numbered
from tests.bench.sides import Product, Side

NO_STORE = (("Cache-Control", "no-store"),)


@dataclass(frozen=True)
class Pace:
    """How long: seconds for each go, goes of each side."""

    seconds: float
    rounds: int
    quick: bool


class Scene:
    """Everything that cases need; `folder` is removed by who made it."""

    def __init__(self, folder: Path, pace: Pace, loop: str, stack: contextlib.ExitStack) -> None:
        self.folder, self.pace, self.loop = folder, pace, loop
        self.rounds: dict[str, Rounds] = {}  # by case, for the file of results
        self.figures: list[Figure] = []
        self._stack = stack
        self._there: dict[str, Side] = {}

    def _once(self, name: str, start: Callable[[], Any]) -> Side:
        if name not in self._there:
            self.say(f"{name} starts")
            self._there[name] = self._stack.enter_context(start())
        return self._there[name]

    # Upstreams and references ---------------------------------------------------------------------

    @property
    def fixed(self) -> Side:
        """nginx with fixed answers."""
        return self._once("fixed", lambda: sides.nginx(self.folder, "fixed", machine.UPSTREAM))

    @property
    def streams(self) -> Side:
        """The upstream of streams."""
        words = ("streams", machine.UPSTREAM, "tests.bench.upstream", "PORT")
        return self._once("streams", lambda: sides.python(self.folder, *words))

    def reference(self, kind: str, upstream: Side, name: str) -> Side:
        """A bare handler, relay or finished-reply writer."""
        base = f"http://127.0.0.1:{upstream.port}"
        words = (name, machine.SERVER, "tests.bench.references", kind, "PORT", base, self.loop)
        return self._once(name, lambda: sides.python(self.folder, *words))

    def nginx(self, kind: str, upstream: Side) -> Side:
        return self._once(
            f"nginx {kind}-{upstream.name}",
            lambda: sides.nginx(self.folder, kind, machine.SERVER, upstream),
        )

    # The product ----------------------------------------------------------------------------------

    @property
    def product(self) -> Product:
        """The gateway with its default cache."""
        found = self._once("gateway", lambda: self._product("gateway", {}, None))
        assert isinstance(found, Product)
        return found

    @contextlib.contextmanager
    def own_product(
        self,
        name: str,
        cache: Mapping[str, Any],
        prepare: Callable[[Path, dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> Any:
        """A gateway of a case's own, gone after it; `prepare` may fill its folder before it
        starts, given the folder, the key's record and the configuration."""
        with self._product(name, cache, prepare) as found:
            yield found
        shutil.rmtree(self.folder / name)

    @contextlib.contextmanager
    def _product(
        self,
        name: str,
        cache: Mapping[str, Any],
        prepare: Callable[[Path, dict[str, Any], dict[str, Any]], None] | None,
    ) -> Any:
        folder = self.folder / name
        folder.mkdir()
        key = sides.issued_key(folder)
        config = sides.settings(self.fixed.port, self.streams.port, self.loop, cache)
        if prepare is not None:
            prepare(folder, key, config)
        with sides.product(folder, config, key["key"], name) as found:
            yield found

    # Measuring ------------------------------------------------------------------------------------

    def fill(self, side: Side, template: str, count: int = DISTINCT, first: int = 0) -> None:
        """Ask each body once, so that all of them are kept."""
        self.say(f"{side.name} is filled")
        side.ask(numbered(template, first))  # a first answer may take a while
        Load(template, count=count, first=first, connections=8).run(side, 1)
        for number in range(count):
            side.ask(numbered(template, first + number))

    def take_turns(
        self, case: str, goes: Mapping[str, tuple[Side, Load | Watch]], slow: float = 0.0
    ) -> Rounds:
        """All sides in turn; prints what each did. `slow`: seconds that a go takes at least."""

        def go(side: Side, load: Load | Watch) -> Callable[[float], Sample]:
            return lambda seconds: load.run(side, max(slow, seconds))

        ways = {name: go(side, load) for name, (side, load) in goes.items()}
        found = in_turn(
            ways, self.pace.rounds, self.pace.seconds, lambda text: self.say(f"{case}: {text}")
        )
        self.told(case, found)
        return found

    def told(self, case: str, found: Rounds) -> None:
        """Keep and print what the sides did."""
        self.rounds[case] = found
        self.say("")
        print(f"{case}")
        print("\n".join(found.lines()), flush=True)

    def figure(self, figure: Figure) -> None:
        """Keep and print one row."""
        self.figures.append(figure)
        print(f"  => {figure}", flush=True)

    def say(self, text: str) -> None:
        """What is being done now, in one line of the terminal that is written over."""
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
