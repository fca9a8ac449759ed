"""YAML text as a tree that remembers where each value stood.

Read event by event with a bound on the depth: libyaml's own composer recurses in C and dies of
200,000 brackets. A value stays text with its quotes known: the section it is for gives the type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from attrs import field, frozen

MAX_DEPTH = 16  # the deepest setting stands at 4
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


@frozen
class Fault:
    """What is wrong at one place. `line` is 1-based; None where no file is to blame."""

    path: str  # server.port, upstreams[0].rename.fast; "" for the file as a whole
    line: int | None
    message: str
    file: str = "config.yaml"

    def __str__(self) -> str:
        where = [self.file if self.line is None else f"{self.file}:{self.line}"]
        return ": ".join([*where, *([self.path] if self.path else []), self.message])


class ConfigError(Exception):
    """Every fault that was found, in the file's order."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


Way = tuple[str | int, ...]  # from the top to a value: names, and positions in lists


@frozen
class Place:
    """Where a value stands in the file."""

    line: int
    way: Way = ()

    def at(self, step: str | int, line: int) -> Place:
        return Place(line, (*self.way, step))

    def fault(self, message: str, file: str) -> Fault:
        return Fault(spell(self.way), self.line, message, file)


def spell(way: Way) -> str:
    """`server.port`, `upstreams[0].rename['gpt-4.1']`."""
    text = ""
    for step in way:
        if isinstance(step, str) and _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


@frozen
class Scalar:
    """One value as text. `shown` is what the file says: the text itself may be a secret."""

    text: str
    quoted: bool
    place: Place
    shown: str = ""
    expanded: bool = False  # took something from the environment


@frozen
class Sequence:
    items: list[Node]
    place: Place


@frozen
class Table:
    """A mapping; `places` knows each name's own line."""

    items: dict[str, Node]
    place: Place
    places: dict[str, Place] = field(factory=dict)


Node = Scalar | Sequence | Table


# Text to tree -------------------------------------------------------------------------------------


class _Refused(Exception):
    def __init__(self, line: int, message: str) -> None:
        self.line = line
        self.message = message


def decode(data: bytes, name: str) -> str:
    """A file's bytes as text; ConfigError with the line of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Fault("", line, "not UTF-8; save the file as UTF-8", name)]) from None


def read(text: str, name: str, faults: list[Fault]) -> Table:
    """The tree of one document. What cannot be read at all raises ConfigError, the rest is added
    to `faults`."""
    try:
        return _Reader(text, name, faults).document()
    except yaml.MarkedYAMLError as error:
        refused = _syntax(error, text)
    except yaml.reader.ReaderError as error:
        line = text.encode("utf-8").count(b"\n", 0, error.position) + 1  # libyaml counts bytes
        refused = _Refused(line, f"a character that YAML does not allow: {error.reason}")
    except UnicodeEncodeError as error:
        refused = _Refused(text.count("\n", 0, error.start) + 1, "half of a surrogate pair")
    except _Refused as error:
        refused = error
    raise ConfigError([Fault("", refused.line, refused.message, name)])


class _Reader:
    """Builds the tree; the rules are in the methods' refusals."""

    def __init__(self, text: str, name: str, faults: list[Fault]) -> None:
        self.events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self.name = name
        self.faults = faults

    def document(self) -> Table:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return Table({}, Place(1))
        first = next(self.events)
        root = self.node(first, Place(_line(first)), 0)
        next(self.events)  # the document's end
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Refused(_line(after), "a second document: remove '---'")
        if isinstance(root, Scalar) and not root.quoted and root.text in ("", "~", "null"):
            return Table({}, Place(1))
        if not isinstance(root, Table):
            raise _Refused(root.place.line, "sections are wanted (server:, upstreams:, ...)")
        return root

    def node(self, event: Any, place: Place, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(
                _line(event),
                f"'*{event.anchor}' is an alias, and aliases are not taken:"
                " write the value out, or a pattern in quotes",
            )
        if event.anchor is not None:
            raise _Refused(_line(event), f"'&{event.anchor}': anchors are not taken")
        if event.tag is not None:
            raise _Refused(_line(event), f"the tag {event.tag!r}: tags are not taken")
        if depth > MAX_DEPTH:
            raise _Refused(_line(event), f"nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, event.style not in (None, ""), place, event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(place, depth)
        return self.table(place, depth)

    def sequence(self, place: Place, depth: int) -> Sequence:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, place.at(len(items), _line(event)), depth + 1))
        return Sequence(items, place)

    def table(self, place: Place, depth: int) -> Table:
        found = Table({}, place)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, place, depth + 1)
            if not isinstance(key, Scalar):
                raise _Refused(_line(event), "a name is plain text, not a list or a mapping")
            here = place.at(key.text, _line(event))
            value = self.node(next(self.events), here, depth + 1)
            if key.text == "<<" and not key.quoted:
                self.faults.append(here.fault("merge keys are not taken: write it out", self.name))
            elif key.text in found.items:
                first = found.places[key.text].line
                self.faults.append(
                    here.fault(f"given twice, first in line {first}: keep one", self.name)
                )
            elif "${" in key.text:
                self.faults.append(here.fault("only values take ${NAME}, names do not", self.name))
            else:
                found.items[key.text] = value
                found.places[key.text] = here
        return found


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> _Refused:
    """libyaml's complaint in one line, with what usually causes it."""
    lines = text.splitlines() or [""]
    mark = error.problem_mark or error.context_mark
    line = min(mark.line if mark else 0, len(lines) - 1)
    first = min(error.context_mark.line if error.context_mark else line, line)
    about = "\n".join(lines[first : line + 1])
    message = "not YAML: " + ", ".join(filter(None, (error.context, error.problem)))
    if "flow" in (error.context or "") and re.search(r"""(?<!["'])\$\{""", about):
        message += ": inside {} and [] write '${NAME}' in quotes"
    elif "alias" in (error.context or ""):
        message += ": write a pattern that begins with * in quotes"
    elif lines[line].lstrip(" ").startswith("\t"):
        message += ": indent with spaces, not with tabs"
    return _Refused(line + 1, message)
