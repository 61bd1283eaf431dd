"""Names of points that lie close to each other in a plot."""

import itertools

from tasks.report import label_places
from tasks.report.label_places import PLACES, Box

WIDTH, HEIGHT = 250.0, 300.0


def places_of(points, names):
    x, y = zip(*points, strict=True)
    return label_places.choose(x, y, names, width=WIDTH, height=HEIGHT)


def test_a_lone_name_stands_at_the_top_right():
    assert places_of([(3.0, 2.0)], ["k8"]) == ["top right"]


def test_a_plot_without_points_has_no_places():
    assert label_places.choose([], [], [], width=WIDTH, height=HEIGHT) == []


def test_names_of_points_that_nearly_meet_do_not_cover_each_other():
    close = [(0.0, 0.0), (3.0, 3.0), (5.0, 0.0)]
    names = ["topk-k8", "batchtopk-k8", "jumprelu-target8.0"]
    places = places_of([*close, (WIDTH, HEIGHT)], [*names, ""])
    boxes = [
        label_places.box(x, y, name, place)
        for (x, y), name, place in zip(close, names, places[:3], strict=True)
    ]
    shared = [a.shared(b) for a, b in itertools.combinations(boxes, 2)]
    assert shared == [0.0, 0.0, 0.0]


def test_a_name_keeps_off_points_without_names():
    crowd = [(100.0 + 8 * i, 110.0) for i in range(1, 8)]
    corners = [(0.0, 0.0), (WIDTH, HEIGHT)]
    points = [(100.0, 100.0), *crowd, *corners]
    (place, *_) = places_of(points, ["topk-k8", *[""] * 9])
    assert place == "bottom right"


def test_boxes_share_what_both_cover():
    assert Box(0, 0, 4, 2).shared(Box(3, 1, 9, 9)) == 1.0
    assert Box(0, 0, 4, 2).shared(Box(4, 0, 9, 2)) == 0.0


def test_places_are_plotlys_words_each_on_another_side():
    words = {tuple(place.split()) for place in PLACES}
    assert words < set(
        itertools.product(("top", "middle", "bottom"), ("left", "center", "right"))
    )
    assert len(set(PLACES.values())) == len(PLACES)
