"""Read YAML into frozen models, with one line for each mistake."""

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

_SHOWN = 60
_Model = TypeVar("_Model", bound=BaseModel)


class ProfileError(ValueError):
    """A profile or a word that cannot be used; each line names one cause."""


def mapping(path: str | Path, *, example: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; `example` names a file that does.

    Raises:
        ProfileError: it cannot be read, or is something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ProfileError(
            f"{path}: cannot be read ({reason}); name a YAML file such as {example}"
        ) from error
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise ProfileError(f"{path}: is not YAML: {text}") from error
    if not isinstance(values, dict):
        raise ProfileError(
            f"{path}: found {type(values).__name__}; write a mapping of keys, as in "
            f"{example}"
        )
    return values


def validated(model: type[_Model], values: dict[str, Any]) -> _Model:
    """Return the values as a model.

    Raises:
        ProfileError: one line per error: the dotted key, what was found, what is
            allowed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = [
            _line(model, values, detail)
            for detail in details
            if not _follows_from_another(detail, details)
        ]
        raise ProfileError("\n".join(dict.fromkeys(lines))) from error


def _follows_from_another(detail: Any, details: list[Any]) -> bool:
    """Return whether a list is too short only for what is wrong with its items."""
    where = detail["loc"]
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > len(where) and other["loc"][: len(where)] == where
        for other in details
    )


def _line(model: type[BaseModel], values: dict[str, Any], detail: Any) -> str:
    """Return one line for one pydantic error."""
    where = ".".join(str(part) for part in _plain_location(values, detail["loc"]))
    # Pydantic says tuple of what a profile writes as a list.
    message = detail["msg"].removeprefix("Value error, ")
    message = message.replace("tuple", "list").replace("Tuple", "List")
    if detail["type"] == "value_error":
        # A validator of a section names the key inside it that is wrong.
        joint = ": " if " " in message.partition(":")[0] else "."
        return f"{where}{joint}{message}" if where else message
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(
            where.rpartition(".")[2], _keys_at(model, detail["loc"]), n=3, cutoff=0.5
        )
        hint = f"did you mean {' or '.join(near)}?" if near else "remove it"
        return f"{where}: is not a key; {hint}"
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


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the keys that are allowed where an unknown one was found."""
    node: Any = model
    for part in location[:-1]:
        candidates = _models(node)
        for candidate in candidates:
            if isinstance(part, str) and part in candidate.model_fields:
                node = candidate.model_fields[part].annotation
                break
        else:
            tagged = [
                c
                for c in candidates
                if "kind" in c.model_fields
                and part in get_args(c.model_fields["kind"].annotation)
            ]
            node = tagged[0] if tagged else node
    return [key for c in _models(node) for key in c.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that stand anywhere inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
