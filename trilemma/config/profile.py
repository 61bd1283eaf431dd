"""From a YAML profile and dotted words to a frozen `Run`, with one line per error."""

from pathlib import Path
from typing import Any

import yaml

from trilemma.config import reading
from trilemma.config.reading import ProfileError
from trilemma.config.run import Run


def load(path: str | Path, words: tuple[str, ...] = ()) -> Run:
    """Return the run that a profile describes, with `dotted.key=value` words applied.

    Raises:
        ProfileError: one line per error: where, what was found, what is allowed.
    """
    values = reading.mapping(path, example="configs/quickstart.yaml")
    if "profiles" in values:
        raise ProfileError(
            f"{path}: is a list of profiles; name one of them, or use the nightly "
            "command"
        )
    for word in words:
        _apply(values, word)
    return parse(values)


def parse(values: dict[str, Any]) -> Run:
    """Return the run that a mapping describes; see `load`."""
    return reading.validated(Run, values)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a profile, for editors."""
    return Run.model_json_schema()


def _apply(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ProfileError(
            f"{word}: changes nothing; write dotted.key=value, such as saes.0.k=8"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{key}: found {text!r}, which is not YAML") from error
    *parents, last = key.split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        where = ".".join(parents[: depth + 1])
        if isinstance(node, list):
            node = node[_index(node, part, where)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            raise ProfileError(f"{where}: found {node!r}, which has no parts")
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ProfileError(f"{'.'.join(parents)}: found {node!r}, which has no parts")


def _index(items: list[Any], part: str, where: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise ProfileError(
        f"{where}: found {part!r}; the list has items 0 to {len(items) - 1}"
    )
