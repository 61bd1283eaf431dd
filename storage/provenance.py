"""What kind of activations a store holds, and whether two of a kind have met."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_SAME = ("lm", "processing", "tokenizer", "toy", "hook", "ctx")
_SIMILAR = ("lm_dtype", "dtype")
# How many rows of a toy are drawn, and how many form a document.
_AMOUNTS = ("num_tokens", "num_eval_tokens", "ctx")
_SHOWN = 60


class Difference(NamedTuple):
    """Where two values of JSON differ first, and what each has there, in words."""

    leaf: str
    mine: str
    theirs: str


def origin(
    provenance: Mapping[str, Any], hook: str, *, ctx: int, dtype: str
) -> dict[str, Any]:
    """Return what makes a store's activations of a hook the kind they are.

    `provenance` is the store's; `ctx` and `dtype` are how it keeps them. The values
    are JSON, hence `Any`.
    """
    kind = {k: provenance[k] for k in (*_SAME, *_SIMILAR) if k in provenance}
    if "toy" in kind:
        kind["toy"] = {k: v for k, v in kind["toy"].items() if k not in _AMOUNTS}
    return kind | {"hook": hook, "ctx": ctx, "dtype": dtype}


def check_same(
    where: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[str]:
    """Return one warning for each dtype in which two origins differ.

    Rounding differs between dtypes, but what an activation means does not.

    Raises:
        ValueError: they differ in something else; one line for each.
    """
    lines = [_line(where, mine, theirs, key) for key in _SAME]
    if wrong := [line for line in lines if line is not None]:
        raise ValueError("\n".join(f"{line}; use those of one kind" for line in wrong))
    lines = [_line(where, mine, theirs, key) for key in _SIMILAR]
    return [line for line in lines if line is not None]


def first_difference(
    mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Difference | None:
    """Return the first leaf in which two values of JSON differ; None if in none."""
    here, there = dict(_leaves("", mine)), dict(_leaves("", theirs))
    for leaf in sorted(here | there):
        if here.get(leaf) != there.get(leaf):
            return Difference(leaf, _shown(here.get(leaf)), _shown(there.get(leaf)))
    return None


def _line(
    where: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str
) -> str | None:
    """Return the first difference below a key, in words; None if there is none."""
    found = first_difference({key: mine.get(key)}, {key: theirs.get(key)})
    if found is None:
        return None
    return (
        f"{where}: activations of {found.leaf} {found.mine} meet those of "
        f"{found.theirs}"
    )


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}" if key else name, inner)
    else:
        yield key, value


def _shown(value: object) -> str:
    text = "unknown" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
