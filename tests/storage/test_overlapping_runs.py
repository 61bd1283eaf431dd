"""Writers of one store whose runs overlap: in a bucket nothing of another is lost."""

import hashlib
import itertools

import pytest

from storage.artifacts import ArtifactError
from storage.places import open_place
from tests.storage import stores
from tests.storage.stores import HOOK

RAW = stores.layout()
NAMES = itertools.count()


def half_done(place):
    """Open a store whose first two parts are committed."""
    writer = stores.open_writer(place, RAW)
    for part in (0, 1):
        stores.write_part(writer, part)
    return writer


def finish(place):
    """Write what is missing of a split, and finish it."""
    writer = stores.open_writer(place, RAW)
    for part in writer.missing():
        stores.write_part(writer, part)
    stores.finish(writer)


@pytest.mark.parametrize("name", [f"{HOOK}/norm/c/2", "train.commits/00000002.json"])
def test_bucket_keeps_what_another_run_has_written_there(name):
    place = open_place(f"memory://late/{next(NAMES)}")
    writer = half_done(place)
    name = name if "commits" in name else f"train.zarr/{name}"
    place.put(name, b"theirs")
    with pytest.raises(ArtifactError) as caught:
        stores.write_part(writer, 2)
    there = hashlib.sha256(b"theirs").hexdigest()[:12]
    message = str(caught.value)
    assert message.startswith(
        f"{place.url}/{name}: another run has written other bytes here, of SHA-256 "
        f"{there} instead of "
    )
    assert message.endswith(
        f"; delete {place.url} or use the same libraries, and run again"
    )
    assert place.get(name) == b"theirs"


@pytest.mark.parametrize("name", ["mask/c/0", f"{HOOK}/zarr.json", "zarr.json"])
def test_bucket_keeps_what_another_run_has_finished_there(name):
    place = open_place(f"memory://late/{next(NAMES)}")
    finish(place)
    other = place.get(f"train.zarr/{name}") + b" "
    place.put(f"train.zarr/{name}", other)
    with pytest.raises(ArtifactError, match=f"{name}: another run has written other"):
        finish(place)
    assert place.get(f"train.zarr/{name}") == other


def other_versions():
    """Return the layouts of two machines whose libraries differ."""
    return [
        RAW._replace(provenance={"lm": "x", "versions": {"numpy": "1", "torch": torch}})
        for torch in ("2.1", "2.2")
    ]


def test_work_of_other_libraries_that_goes_is_told(tmp_path, caplog):
    before, now = other_versions()
    place = open_place(tmp_path)
    writer = stores.open_writer(place, before)
    for part in (0, 1):
        stores.write_part(writer, part)
    assert stores.open_writer(place, now).missing() == [0, 1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"{place.url}/train.zarr: was begun with provenance.versions.torch '2.1', "
        "found '2.2' now; its 2 committed parts are removed and made again"
    ]


def test_work_of_other_libraries_in_a_bucket_is_kept_and_the_new_run_refused():
    before, now = other_versions()
    place = open_place(f"memory://late/{next(NAMES)}")
    stores.write_part(stores.open_writer(place, before), 0)
    found = stores.contents(place)
    with pytest.raises(ArtifactError) as caught:
        stores.open_writer(place, now)
    assert str(caught.value) == (
        f"{place.url}/train.zarr: was begun with provenance.versions.torch '2.1', "
        f"found '2.2' now; delete {place.url}, or go on with the same libraries and "
        "settings"
    )
    assert stores.contents(place) == found


@pytest.mark.parametrize("layout", [RAW, stores.layout("float16")])
def test_committed_store_is_not_opened_to_be_written(place, layout):
    stores.make(place, RAW)
    found = stores.contents(place)
    with pytest.raises(ArtifactError) as caught:
        stores.open_writer(place, layout)
    assert str(caught.value) == (
        f"{place.url}: another run has committed this artifact; run again"
    )
    assert stores.contents(place) == found


def test_run_whose_records_a_faster_one_has_forgotten_says_so(place):
    writer = half_done(place)
    stores.make(place, RAW)
    with pytest.raises(ArtifactError, match="another run has committed this artifact"):
        stores.finish(writer)
