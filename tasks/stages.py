"""The stages, in the order in which they run."""

STAGES = (
    "lm",
    "corpus",
    "harvest",
    "training",
    "evaluation",
    "explanation",
    "reporting",
    "sharing",
)
