"""Joint hooks: several hooks side by side under one name, which crosscoders read."""

SEPARATOR = "+"
"""Between the names of hooks; no hook of TransformerLens has it in its own."""

Hook = str | tuple[str, ...]
"""As a profile names what an SAE reads: a hook, or a list of them."""


def name(hook: Hook) -> str:
    """Return the one name of a hook, or of several that are read together."""
    return hook if isinstance(hook, str) else SEPARATOR.join(hook)


def parts(name: str) -> tuple[str, ...]:
    """Return the hooks that a name stands for; one, unless it is a joint hook's."""
    return tuple(name.split(SEPARATOR))


def written(name: str) -> Hook:
    """Return a hook as a profile names it."""
    found = parts(name)
    return found if len(found) > 1 else name


def check(hook: Hook | None) -> None:
    """Check that a list names several hooks, each once.

    Raises:
        ValueError: it does not.
    """
    if isinstance(hook, tuple) and (not hook[1:] or len(set(hook)) < len(hook)):
        raise ValueError(
            f"hook: found {list(hook)}; a list is for a crosscoder, of two different "
            "hooks or more"
        )
