"""A disk that fills up during a harvest: one line, nothing lost, and it goes on."""

import json
import os
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120
_MIB = 1 << 20
ROWS, D_IN = 72_000 + 7_200, 64
# Of a row: its values, norm, token, document and mask.
STORES_MIB = ROWS * (4 * D_IN + 4 + 4 + 8 + 1) / _MIB
SPARED_MIB = 64  # by the check beforehand
DISK_MIB = 100
ROOM_MIB = 8
# Many features make the toy slow enough to be caught halfway.
PROFILE = """
name: full
toy: {num_features: 1024, d_in: 64, num_tokens: 72_000, num_eval_tokens: 7_200, ctx: 50}
store: {chunk_mib: 0.5}
saes: [{kind: topk, d_sae: 8, k: 2}]
compute: {threads: 1}
sharing: {tracker: none}
"""


@pytest.fixture(scope="module")
def full_profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "full.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def disk(tmp_path):
    """Return the folder of a small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no small file system can be made: {error}")
    if ended.returncode:
        pytest.skip(f"no small file system can be made: {ended.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, room_bytes):
    """Write a file that leaves so much room, and return it."""
    found = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        length = found.f_bavail * found.f_frsize - room_bytes
        os.posix_fallocate(file.fileno(), 0, length)
    return filler


def records(home):
    """Return the commit records of a harvest, and of the files that they name."""
    found = {}
    for record in home.glob("harvest/*/*.commits/*.json"):
        found[record] = record.stat().st_mtime_ns
        for name in json.loads(record.read_text())["files"]:
            path = record.parents[1] / name
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for_a_record(process, home):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list(home.glob("harvest/*/train.commits/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_full_disk_ends_in_one_line_and_the_next_run_goes_on(
    disk, tmp_path, full_profile, start_flows, run_flows, digests
):
    home = disk / "home"
    process = start_flows(home, "harvest", full_profile)
    wait_for_a_record(process, home)
    os.kill(process.pid, signal.SIGSTOP)
    filler = fill(disk, ROOM_MIB * _MIB)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert "Traceback" not in out + err
    (line,) = [line for line in err.splitlines() if "resume with: " in line]
    assert line.startswith("harvest: [Errno 28] No space left on device: ")
    assert line.endswith(f"; resume with: python -m flows harvest {full_profile}")
    kept = records(home)
    assert kept
    filler.unlink()
    ended = run_flows(home, "harvest", full_profile)
    assert ended.status == 0, ended.err
    left = [path for path in kept if path.suffix != ".json"]
    assert {path: path.stat().st_mtime_ns for path in left} == {
        path: kept[path] for path in left
    }
    elsewhere = tmp_path / "elsewhere"
    assert run_flows(elsewhere, "harvest", full_profile).status == 0
    assert digests(home) == digests(elsewhere)


def test_too_little_room_is_told_before_a_chunk_is_written(
    disk, full_profile, run_flows
):
    home = disk / "home"
    fill(disk, 70 * _MIB)
    ended = run_flows(home, "harvest", full_profile)
    assert ended.status == 1
    (line,) = [line for line in ended.err.splitlines() if "resume with: " in line]
    message, _, _ = line.partition("; resume with: ")
    needed = f"{STORES_MIB + SPARED_MIB:.0f} MiB needed"
    assert message == (
        f"harvest: {home}: 70 MiB free, about {needed}; free some, or set "
        "TRILEMMA_HOME to a larger disk"
    )
    assert "Traceback" not in ended.err
    assert not list(home.glob("harvest/*/*.zarr/tokens/c/*"))
