"""A night: the profiles to run one after another, from a small YAML file."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from trilemma.config.profile import ProfileError
from trilemma.config.section import Section


class Nightly(Section):
    """What runs every night; the profiles themselves are read when it begins."""

    profiles: tuple[str, ...] = Field(
        min_length=1, description="Profiles, in the order in which they run."
    )
    words: tuple[str, ...] = Field(
        (), description="Changes to each of them: dotted.key=value."
    )

    @field_validator("words")
    @classmethod
    def _words_have_values(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word.partition("=")[0] or "=" not in word:
                raise ValueError(f"found {word!r}; write dotted.key=value")
        return words


def load(path: str | Path, words: tuple[str, ...] = ()) -> Nightly:
    """Return the night that a file describes, with further words after its own.

    Raises:
        ProfileError: one line per error: where, what was found, what is allowed.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ProfileError(
            f"{path}: cannot be read ({reason}); name one such as configs/nightly.yaml"
        ) from error
    except yaml.YAMLError as error:
        raise ProfileError(f"{path}: is not YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ProfileError(
            f"{path}: found {type(values).__name__}; a night is a mapping of "
            "profiles and words"
        )
    try:
        night = Nightly.model_validate(values)
        return Nightly(profiles=night.profiles, words=night.words + words)
    except ValidationError as error:
        lines = [_line(detail) for detail in error.errors(include_url=False)]
        raise ProfileError("\n".join(lines)) from error


def _line(detail: Any) -> str:
    """Return one line for one pydantic error."""
    where = ".".join(str(part) for part in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "value_error":
            return f"{where}: {message}"
        case "extra_forbidden":
            return f"{where}: is not a key that a night has; it has profiles and words"
        case "missing":
            return f"{where}: missing; it has no default"
    found = repr(detail["input"])
    found = found if len(found) <= 60 else f"{found[:57]}..."  # noqa: PLR2004 - a line
    return f"{where}: found {found}; {message[:1].lower()}{message[1:]}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
