"""Harvest one split into a folder by the engine alone, as the stage does."""

from pathlib import Path

from storage.places import LocalPlace
from storage.store_writer import Layout, StoreWriter, forget_commits
from tasks import finishing, harvesting
from tasks.finishing import Finished
from tasks.harvesting import Source
from trilemma import allocation

HIGH_NORM_RATIO = 10.0


def harvest(
    folder: Path, source: Source, layout: Layout, *, batch_seqs: int
) -> Finished:
    """Write all parts of a split, then its masks and statistics."""
    place = LocalPlace(folder)
    writer = StoreWriter(place, "train", layout, num_seqs=source.num_seqs)
    settings = harvesting.Settings(batch_seqs, HIGH_NORM_RATIO)
    with allocation.kept():
        harvesting.write_groups(
            writer,
            source,
            settings,
            harvesting.share(writer, settings, 0, 1),
            split="train",
            asked=lambda: False,
            report=lambda progress: None,
        )
        finished = finishing.finish(
            writer, source, HIGH_NORM_RATIO, asked=lambda: False
        )
    forget_commits(place)
    return finished
