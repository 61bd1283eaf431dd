"""Tables of columns as Parquet files whose bytes depend on the values alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from storage import durable


def write(path: Path, columns: Mapping[str, npt.NDArray[Any] | Sequence[Any]]) -> None:
    """Replace a Parquet file by a table of these columns, all of one length."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with durable.replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def read(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a Parquet file as plain lists."""
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return columns
