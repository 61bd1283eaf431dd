"""A night: the profiles to run one after another, from a small YAML file."""

from pathlib import Path

from pydantic import Field, field_validator

from trilemma.config import reading
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
    values = reading.mapping(path, example="configs/nightly.yaml")
    night = reading.validated(Nightly, values)
    both = {"profiles": night.profiles, "words": night.words + words}
    return reading.validated(Nightly, both)
