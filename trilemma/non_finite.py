"""What stops one SAE's training and leaves its siblings: a loss that is not finite."""

from collections.abc import Sequence

# Of a batch that is not finite.
_ROWS_NAMED = 5


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient is not finite; the weights are those of the step before."""

    def __init__(self, key: str, step: int, rows: Sequence[int]) -> None:
        """Name the step, counted from 1, and the batch's rows that are not finite."""
        listed = ", ".join(map(str, rows[:_ROWS_NAMED]))
        more = ", ..." if len(rows) > _ROWS_NAMED else ""
        advice = (
            f"rows {listed}{more} of its batch are not finite; harvest them again"
            if rows
            else "all rows of its batch are finite; lower lr"
        )
        super().__init__(
            f"training {key}: found a loss or gradient that is not finite at step "
            f"{step}; {advice}"
        )
        self.step = step
