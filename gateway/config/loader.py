"""config.yaml and the environment as a `Config`, or every fault at once.

A value that is wrong is told and taken out, and the rest goes on: so one reading finds what types,
names, variables and the rules between settings have to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import evolve

from gateway.config.checks import check
from gateway.config.document import (
    ConfigError,
    Fault,
    Node,
    Place,
    Scalar,
    Sequence,
    Table,
    Way,
    decode,
    read,
    spell,
)
from gateway.config.environment import Environment, expand
from gateway.config.finding import Finding
from gateway.config.kinds import (
    Secret,
)
from gateway.config.sections import (
    Config,
)
from gateway.config.structure import BaseValidationError, problems, structure
from gateway.config.tracing import extras
from gateway.config.view import RESTART

Told = tuple[Place, str]


def load(
    text: str | bytes,
    env: Mapping[str, str],
    read_file: Callable[[str], str],
    *,
    name: str = "config.yaml",
    installed: Callable[[str], bool] = lambda module: True,
) -> Config:
    """The configuration that `text` (bytes: UTF-8) and `env` make; ConfigError has every fault.

    `read_file` gives the content of a secret's file, by the path in NAME_FILE, or raises OSError or
    ValueError. `installed` says whether a module of an optional extra can be imported.
    """
    faults: list[Fault] = []
    tree = read(text if isinstance(text, str) else decode(text, name), name, faults)
    environment = Environment(env, read_file)
    told: list[Told] = []
    filled = expand(tree, environment, told)
    assert isinstance(filled, Table)
    config = _typed(filled, told)
    config = _from_environment(config, tree, environment, told)
    broken = [place.way for place, _ in told]
    told += [
        (_place(filled, finding.way), finding.message)
        for finding in [*check(config), *extras(config, installed)]
        if not _rests_on(finding, filled, broken)
    ]
    faults += [place.fault(message, name) for place, message in told]
    if faults:
        raise ConfigError(sorted(faults, key=lambda fault: (fault.line, fault.path)))
    return config


def _typed(tree: Table, told: list[Told]) -> Config:
    """The sections. Takes what is wrong out of `tree`, until the rest is right."""
    while True:
        try:
            return structure(tree)
        except BaseValidationError as error:
            found = list(problems(error))
        known = {place.way for place, _ in told}
        # From the end, so that a list's positions hold until they are used.
        for way, message, missing in sorted(found, reverse=True):
            place = _place(tree, way)
            if place.way not in known:
                told.append((place, message))
            parent = _node(tree, way[:-1])
            if missing and isinstance(parent, Table):
                parent.items[str(way[-1])] = Scalar("", True, place)
            elif isinstance(parent, Table):
                del parent.items[str(way[-1])]
            elif isinstance(parent, Sequence):
                del parent.items[int(way[-1])]


def _from_environment(
    config: Config, tree: Table, environment: Environment, told: list[Told]
) -> Config:
    """What the shipped file takes from the environment is taken from there without the file too."""
    admin = tree.items.get("admin")
    if not (isinstance(admin, Table) and "token" in admin.items):
        token = _secret("GATEWAY_ADMIN_TOKEN", ("admin", "token"), environment, told)
        config = evolve(config, admin=evolve(config.admin, token=token))
    if "upstreams" not in tree.items:
        key = _secret("OPENAI_API_KEY", ("upstreams",), environment, told)
        upstreams = [
            evolve(upstream, api_key=key) if upstream.name == "openai" else upstream
            for upstream in config.upstreams
        ]
        config = evolve(config, upstreams=upstreams)
    return config


def _secret(name: str, way: Way, environment: Environment, told: list[Told]) -> Secret:
    asked = f"${{{name}:-}}"
    found = expand(Scalar(asked, True, Place(1, way), asked), environment, told)
    return Secret(found.text if isinstance(found, Scalar) else "")


def _node(tree: Table, way: Way) -> Node | None:
    node: Node | None = tree
    for step in way:
        if isinstance(node, Table):
            node = node.items.get(str(step))
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node


def _place(tree: Table, way: Way) -> Place:
    """Where a value stood in the file; for a default, where its section stands."""
    if not way:
        return tree.place
    parent, step = _node(tree, way[:-1]), way[-1]
    if isinstance(parent, Table) and step in parent.places:
        return parent.places[str(step)]
    node = _node(tree, way)
    above = _place(tree, way[:-1])
    return node.place if node else above.at(step, above.line)


def _rests_on(finding: Finding, tree: Table, broken: list[Way]) -> bool:
    """Is the rule broken only because a value had to be taken out?"""
    ways = [_place(tree, way).way for way in (finding.way, *finding.others)]
    return any(way[: len(lost)] == lost[: len(way)] for way in ways for lost in broken)


def with_overrides(
    config: Config,
    *,
    host: str | None = None,
    port: int | None = None,
    admin_port: int | None = None,
    data: str | None = None,
) -> Config:
    """The command line's options over the file's; ConfigError if the whole breaks a rule now."""
    server = evolve(
        config.server,
        host=config.server.host if host is None else host,
        port=config.server.port if port is None else port,
    )
    admin = evolve(config.admin, port=config.admin.port if admin_port is None else admin_port)
    merged = evolve(config, server=server, admin=admin, data=config.data if data is None else data)
    return _checked(merged, "command line")


def as_running(running: Config, new: Config) -> Config:
    """`new` as a running process can hold it: what needs a restart (RESTART) stays as it is.

    ConfigError if that mixture breaks a rule: a file that names a loopback host does not make a
    socket private that is open to all, so what is refused there is refused here.
    """
    merged = new
    for path in RESTART:
        section, _, name = path.rpartition(".")
        if not section:
            merged = evolve(merged, **{name: getattr(running, name)})
            continue
        kept = {name: getattr(getattr(running, section), name)}
        merged = evolve(merged, **{section: evolve(getattr(merged, section), **kept)})
    return _checked(merged, "until a restart")


def _checked(config: Config, source: str) -> Config:
    faults = [Fault(spell(finding.way), None, finding.message, source) for finding in check(config)]
    if faults:
        raise ConfigError(faults)
    return config
