"""Progress: the rate and the time left, on a terminal and in plain lines."""

import re

from tasks import progress


def lines_of(times, *calls):
    """Return the plain lines of calls that are made at these seconds."""
    lines, now = [], [0.0]
    with progress.shown(
        "training", 4000, "tokens", 1000, say=lines.append, clock=lambda: now[0]
    ) as show:
        for time, call in zip(times, calls, strict=True):
            now[0] = time
            show(*call)
    return lines


def test_a_plain_line_tells_the_rate_the_time_left_and_the_detail():
    assert lines_of([20.0], (2000, "fvu 0.300, l0 8.0, dead 1.5 %")) == [
        "training: 2,000 of 4,000 tokens (50/s), 40 s left, fvu 0.300, l0 8.0, "
        "dead 1.5 %"
    ]


def test_lines_come_ten_seconds_apart():
    lines = lines_of([1.0, 11.0, 20.0, 21.0], *[(2000, str(i)) for i in range(4)])
    assert [line[-1] for line in lines] == ["1", "3"]


def test_a_bar_tells_the_rate_and_the_detail(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.shown("training", 4000, "tokens", 1000) as show:
        show(2000, "fvu 0.300")
    drawn = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "2000/4000 tokens" in drawn
    assert re.search(r"\([\d,]+/s\) fvu 0\.300", drawn)
