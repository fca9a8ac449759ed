"""`${NAME}` in the values of the file: from the environment, or from the file that NAME_FILE names.

Put into values that are parsed already, so that no content of a variable can become YAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from attrs import evolve, frozen

from gateway.config.document import Node, Place, Scalar, Sequence

_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(\$\{)")


@frozen
class Environment:
    """`${NAME}`: NAME, else the content of the file that NAME_FILE names, else the default."""

    variables: Mapping[str, str]
    read_file: Callable[[str], str]

    def expand(self, scalar: Scalar) -> Scalar:
        """ValueError says which variable is missing; no message holds a value."""
        if "${" not in scalar.text:
            return scalar
        text = _VARIABLE.sub(self._replace, scalar.text)
        return evolve(scalar, text=text, expanded=True)

    def _replace(self, match: re.Match[str]) -> str:
        escaped, name, default, stray = match.groups()
        if escaped:
            return "${"
        if stray:
            raise ValueError("'${' without NAME}: write ${NAME} or ${NAME:-default}, or $${ for it")
        value = self.variables.get(name)
        file = self.variables.get(f"{name}_FILE")
        if not value and file:
            return self._secret(name, file)
        if default is not None:
            return value or default  # as in a shell, ':-' also stands in for an empty one
        if value is None:
            raise ValueError(
                f"the environment has neither {name} nor {name}_FILE:"
                f" set one, or write ${{{name}:-default}}"
            )
        return value

    def _secret(self, name: str, file: str) -> str:
        try:
            text = self.read_file(file)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ValueError(f"{name}_FILE: cannot read {file!r}: {why}") from None
        value = text.removesuffix("\n").removesuffix("\r")
        if not value:
            raise ValueError(f"{name}_FILE: {file!r} is empty")
        return value


def expand(node: Node, environment: Environment, lost: list[tuple[Place, str]]) -> Node | None:
    """The tree with the environment in it; what could not be filled is left out, and in `lost`."""
    if isinstance(node, Scalar):
        try:
            return environment.expand(node)
        except ValueError as error:
            lost.append((node.place, str(error)))
            return None
    if isinstance(node, Sequence):
        filled = [expand(item, environment, lost) for item in node.items]
        return evolve(node, items=[item for item in filled if item is not None])
    named = {key: expand(item, environment, lost) for key, item in node.items.items()}
    return evolve(node, items={key: item for key, item in named.items() if item is not None})
