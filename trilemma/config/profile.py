"""From a YAML profile and dotted words to a frozen `Run`, with one line per error."""

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from trilemma.config.run import Run

_SHOWN = 60


class ProfileError(ValueError):
    """A profile or a word that cannot be used; each line names one cause."""


def load(path: str | Path, words: tuple[str, ...] = ()) -> Run:
    """Return the run that a profile describes, with `dotted.key=value` words applied.

    Raises:
        ProfileError: one line per error: where, what was found, what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be read ({error.strerror}); name a YAML profile, such as "
            "configs/quickstart.yaml"
        ) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: is not YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ProfileError(
            f"{path}: found {type(values).__name__}; a profile is a mapping of keys"
        )
    for word in words:
        _apply(values, word)
    return parse(values)


def parse(values: dict[str, Any]) -> Run:
    """Return the run that a mapping describes; see `load`."""
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        lines = [_line(values, detail) for detail in error.errors(include_url=False)]
        raise ProfileError("\n".join(dict.fromkeys(lines))) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a profile, for editors."""
    return Run.model_json_schema()


def _apply(values: dict[str, Any], word: str) -> None:
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ProfileError(f"{word}: is not a word; write dotted.key=value")
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


def _line(values: dict[str, Any], detail: Any) -> str:
    """Return one line for one pydantic error."""
    where = ".".join(str(part) for part in _plain_location(values, detail["loc"]))
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}.{message}" if where else message
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            where.rpartition(".")[2], _keys_at(values, detail["loc"]), n=3, cutoff=0.5
        )
        hint = f"did you mean {' or '.join(near)}?" if near else "remove it"
        return f"{where}: is not a key that a profile has; {hint}"
    if detail["type"] == "missing":
        return f"{where}: missing; it has no default"
    found = repr(detail["input"])
    found = found if len(found) <= _SHOWN else f"{found[: _SHOWN - 3]}..."
    return f"{where}: found {found}; {message[:1].lower()}{message[1:]}"


def _plain_location(values: Any, location: tuple[Any, ...]) -> list[Any]:
    """Return the location without the tags that pydantic adds for unions."""
    plain: list[Any] = []
    node = values
    for index, part in enumerate(location):
        is_last = index == len(location) - 1
        if (isinstance(node, dict) and (part in node or is_last)) or isinstance(
            part, int
        ):
            # A tag is never a key of the mapping that it tags, save for the last
            # part, which may be a missing key.
            if is_last and isinstance(node, dict) and part == node.get("kind"):
                continue
            plain.append(part)
            try:
                node = node[part]
            except (KeyError, IndexError, TypeError):
                node = None
    return plain


def _keys_at(values: dict[str, Any], location: tuple[Any, ...]) -> list[str]:
    """Return the keys that are allowed where an unknown one was found."""
    model: Any = Run
    for part in location[:-1]:
        candidates = _models(model)
        for candidate in candidates:
            if isinstance(part, str) and part in candidate.model_fields:
                model = candidate.model_fields[part].annotation
                break
        else:
            tagged = [
                c
                for c in candidates
                if "kind" in c.model_fields
                and part in get_args(c.model_fields["kind"].annotation)
            ]
            model = tagged[0] if tagged else model
    return [key for c in _models(model) for key in c.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that stand anywhere inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
