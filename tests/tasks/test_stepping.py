"""What a running training tells of a family."""

from tasks import stepping


def row(fvu, l0, dead_fraction):
    return {"fvu": fvu, "l0": l0, "dead_fraction": dead_fraction}


def test_one_sae_is_told_by_its_values():
    assert stepping.told([row(0.25, 16.0, 0.0125)]) == "fvu 0.250, l0 16.0, dead 1.2 %"


def test_several_are_told_from_the_least_to_the_largest():
    rows = [row(0.5, 8.0, 0.0), row(0.25, 16.0, 0.0), row(0.3, 12.0, 0.0)]
    assert stepping.told(rows) == "fvu 0.250 to 0.500, l0 8.0 to 16.0, dead 0.0 %"
