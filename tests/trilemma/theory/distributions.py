"""Random distributions over sets of concepts, for properties."""

from hypothesis import strategies as st

from trilemma.theory.supports import Supports


@st.composite
def distributions(draw: st.DrawFn, *, most_concepts: int = 5) -> Supports:
    """Return some sets of up to `most_concepts` concepts with random probabilities."""
    num_concepts = draw(st.integers(1, most_concepts))
    sets = st.frozensets(st.integers(0, num_concepts - 1))
    weights = draw(st.dictionaries(sets, st.integers(1, 1000), min_size=1, max_size=12))
    total = sum(weights.values())
    return Supports.of(
        {chosen: weight / total for chosen, weight in weights.items()},
        num_concepts=num_concepts,
    )
