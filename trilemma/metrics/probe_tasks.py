"""Tasks for probes: facts about tokens that need no labels but the text itself."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from trilemma.explanation import rows as texts
from trilemma.explanation.predicates import CHARACTER_CLASSES
from trilemma.explanation.rows import QUOTES, Rows
from trilemma.sequences import Sequences

TASKS = (
    "digits",
    "capital",
    "in_quotes",
    "in_brackets",
    "next_new_word",
    "next_punctuation",
    "late",
)
"""Is the token a number; does it start in a capital; is a quote, or a bracket, open; is
the next token the start of a word, or punctuation; is it in its row's second half?"""


class Labeller:
    """Labels the rows of sequences by the text of their tokens."""

    def __init__(self, token_text: Sequence[str]) -> None:
        self._token_text = tuple(token_text)
        self._sequences: Sequences | None = None
        self._labels = np.zeros((0, len(TASKS)), dtype=bool)
        self._kinds = {
            name: np.array([bool(pattern.fullmatch(text)) for text in token_text])
            for name, (pattern, _) in CHARACTER_CLASSES.items()
        }

    def labels(self, sequences: Sequences) -> Bool[np.ndarray, "row task"]:
        """Return what holds on each row, in the order of TASKS.

        A row that ends its document, or its sequence, has no next token: what is asked
        of it does not hold. Asked again of the same sequences, the answer is kept.
        """
        if sequences is not self._sequences:
            self._sequences, self._labels = sequences, self._found(sequences)
        return self._labels

    def _found(self, sequences: Sequences) -> Bool[np.ndarray, "row task"]:
        rows = texts.lay_out(
            sequences.tokens.numpy(),
            document=sequences.document.numpy(),
            mask=sequences.mask.numpy(),
            token_text=self._token_text,
        )
        depths = rows.depths
        late = rows.position >= sequences.tokens.shape[1] / 2
        columns = (
            self._kinds["digits"][rows.token],
            self._kinds["capital"][rows.token],
            np.any([depths[name] > 0 for name in QUOTES], axis=0),
            depths["any"] > 0,
            self._next(rows, "new word"),
            self._next(rows, "punctuation"),
            late,
        )
        return np.stack(columns, axis=1)

    def _next(self, rows: Rows, kind: str) -> Bool[np.ndarray, " row"]:
        following = self._kinds[kind][np.roll(rows.token, -1)]
        has_next = np.arange(len(following)) + 1 < rows.stop
        found: Bool[np.ndarray, " row"] = following & has_next
        return found
