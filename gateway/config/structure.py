"""A tree of text as typed sections: cattrs, with a hook for each kind of value.

A hook raises ValueError saying what is wanted and what was found; `problems` gives each its way.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import Any

import attrs
from cattrs import (
    BaseValidationError,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from gateway.config.document import Node, Scalar, Sequence, Table, Way
from gateway.config.kinds import (
    NONE_IS_A_WORD,
    Duration,
    Limit,
    Money,
    Part,
    Price,
    Secret,
    SecretURL,
    Size,
)
from gateway.config.sections import (
    Config,
)
from gateway.config.units import parse_duration, parse_money, parse_part, parse_price, parse_size

Hook = Callable[[Any, Any], Any]

# YAML 1.2's core schema (section 10.3.2): `no` and `on` are text, dates are text.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_ON, _OFF = ("true", "on"), ("false", "off")  # YAML 1.1 knows on and off too; yes and no are text
_NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_SHORT = 24  # characters of a wrong value that a message repeats: no key is so short


def structure(tree: Table) -> Config:
    """The sections; cattrs' BaseValidationError holds every fault, see `problems`."""
    config: Config = _converter().structure(tree, Config)
    return config


def _is_null(node: Node) -> bool:
    """Nothing was written: `section:` with all its settings commented out."""
    return isinstance(node, Scalar) and _kind(node) == "nothing"


# What is wrong, and where -------------------------------------------------------------------------


def problems(error: BaseException, way: Way = ()) -> Iterator[tuple[Way, str, bool]]:
    """Each fault in what `structure` raised: its way, its message, whether a value is missing."""
    if isinstance(error, ClassValidationError):
        noted, bare = error.group_exceptions()
        for inner, note in noted:
            yield from problems(inner, (*way, note.name))
        for other in bare:
            yield from problems(other, way)
    elif isinstance(error, IterableValidationError):
        for inner, place in error.group_exceptions()[0]:
            yield from problems(inner, (*way, place.index))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in attrs.fields(error.cl)]
        for name in error.extra_fields:
            yield (*way, name), f"unknown name{_nearest(name, known)}", False
    elif isinstance(error, KeyError):
        yield way, f"missing; every {str(way[0]).rstrip('s')} has one", True
    else:
        yield way, str(error), False


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else f" (known are {', '.join(known)})"


def _kind(scalar: Scalar) -> str:
    if scalar.quoted or scalar.expanded:
        return "text"
    for kind, pattern in (("nothing", _NULL), ("truth", _BOOL), ("number", _NUMBER)):
        if pattern.fullmatch(scalar.text):
            return kind
    return "text"


def _found(node: Node) -> str:
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.expanded:
        return f"the value of {node.shown}" if len(node.shown) <= 2 * _SHORT else "another value"
    if (kind := _kind(node)) == "nothing":
        return "nothing"
    if len(node.text) > _SHORT:
        return f"a text of {len(node.text)} characters"
    shown = {"text": f"the text {node.text!r}", "number": f"the number {node.text}"}
    return shown.get(kind, node.text)


def _wrong(node: Node, wanted: str) -> ValueError:
    return ValueError(f"{wanted} is wanted, found {_found(node)}")


# One hook for each kind of value ------------------------------------------------------------------


def _text(node: Any, _: Any) -> str:
    if isinstance(node, str):
        return node  # a mapping's name
    if isinstance(node, Scalar):
        kind = _kind(node)
        if kind == "text":
            return node.text
        if kind == "nothing":
            raise ValueError('text is wanted, found nothing: write "" for an empty one')
        raise ValueError(f"{_wrong(node, 'text')}: put it in quotes")
    raise _wrong(node, "text")


def _secret(node: Any, kind: type[Secret]) -> Secret:
    try:
        return kind(_text(node, kind))
    except ValueError:
        if not isinstance(node, Scalar):
            raise
        raise ValueError('text is wanted: put the value in quotes, or write ""') from None


def _is_bare(node: Any) -> bool:
    """May be more than text. In {} a variable has to be quoted, so its value counts as bare."""
    return isinstance(node, Scalar) and (node.expanded or not node.quoted)


def _whole(node: Any, _: Any) -> int:
    if _is_bare(node) and _WHOLE.fullmatch(node.text):
        return int(node.text)
    raise _wrong(node, "a whole number")


def _truth(node: Any, _: Any) -> bool:
    if _is_bare(node) and node.text in (node.text.lower(), node.text.title(), node.text.upper()):
        word = node.text.lower()
        if word in (*_ON, *_OFF):
            return word in _ON
    raise _wrong(node, "true or false")


def _measure(node: Any, parse: Callable[[str], Any], wanted: str) -> Any:
    if not isinstance(node, Scalar):
        raise _wrong(node, wanted)
    try:
        return parse(node.text)
    except ValueError as error:
        raise ValueError(f"{error}; found {_found(node)}") from None


def _size(node: Any, _: Any) -> Size:
    size: Size = _measure(node, parse_size, "a size (64MiB)")
    return size


def _price(node: Any, _: Any) -> Price:
    price: Price = _measure(node, parse_price, "a price in dollars per million tokens (0.15)")
    return price


def _part(node: Any, _: Any) -> Part:
    part: Part = _measure(node, parse_part, "a part of the whole, 0 to 1 (0.1),")
    return part


def _duration(node: Any, _: Any) -> Duration:
    duration: Duration = _measure(node, parse_duration, "a duration (30s)")
    return duration


def _money(node: Any, _: Any) -> Money:
    money: Money = _measure(node, parse_money, "an amount in dollars (12.50)")
    return money


def _word(node: Any, kind: Any) -> Any:
    known = [member.value for member in kind]
    if isinstance(node, Scalar) and node.text in known:
        return kind(node.text)
    raise _wrong(node, f"one of {', '.join(known)}")


def _section(kind: Any, converter: Converter) -> Hook:
    inner = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def hook(node: Any, _: Any) -> Any:
        if _is_null(node):
            return inner({}, kind)
        if not isinstance(node, Table):
            raise _wrong(node, "a mapping")
        return inner(node.items, kind)

    return hook


def _list(kind: Any, converter: Converter) -> Hook:
    inner = list_structure_factory(kind, converter)

    def hook(node: Any, _: Any) -> Any:
        if not isinstance(node, Sequence):
            raise _wrong(node, "a list, as in [a, b] or [],")
        return inner(node.items, kind)

    return hook


def _mapping(kind: Any, converter: Converter) -> Hook:
    inner = mapping_structure_factory(kind, converter)

    def hook(node: Any, _: Any) -> Any:
        if _is_null(node):
            return {}
        if not isinstance(node, Table):
            raise _wrong(node, "a mapping, as in {name: value} or {},")
        return inner(node.items, kind)

    return hook


def _optional(kind: Any, converter: Converter) -> Hook:
    [base] = [arg for arg in typing.get_args(kind) if arg is not types.NoneType]
    inner: Hook = converter.get_structure_hook(base)
    if base not in NONE_IS_A_WORD:
        return inner

    def hook(node: Any, _: Any) -> Any:
        none = isinstance(node, Scalar) and node.text == "none"
        return None if none else inner(node, base)

    return hook


_SCALARS: dict[Any, Hook] = {
    str: _text,
    int: _whole,
    bool: _truth,
    Size: _size,
    Duration: _duration,
    Price: _price,
    Money: _money,
    Limit: _whole,
    Part: _part,
    Secret: _secret,
    SecretURL: _secret,
    StrEnum: _word,
}
_FACTORIES: dict[Any, Callable[[Any, Converter], Hook]] = {
    list: _list,
    dict: _mapping,
    typing.Union: _optional,
    types.UnionType: _optional,
}


def _compound(kind: Any, converter: Converter) -> Hook:
    factory = _section if attrs.has(kind) else _FACTORIES[typing.get_origin(kind)]
    return factory(kind, converter)


@cache
def _converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook_factory(lambda _: True, _compound)
    for kind, hook in _SCALARS.items():  # last: cattrs asks the latest first
        converter.register_structure_hook(kind, hook)
    return converter


__all__ = ["BaseValidationError", "problems", "structure"]
