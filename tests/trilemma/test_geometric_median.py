"""The geometric median: the least sum of distances, wherever a few rows lie."""

import torch

from trilemma import geometric_median
from trilemma.geometric_median import MAX_ITERATIONS


def rows(num=501, d_in=6):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(num, d_in, generator=generator)
    return x * x.abs() + 0.5


def sum_of_distances(x, point):
    return float((x.double() - point).norm(dim=1).sum())


def test_no_point_nearby_has_a_smaller_sum_of_distances():
    x = rows()
    found = geometric_median.geometric_median(x)
    least = sum_of_distances(x, found.point)
    generator = torch.Generator().manual_seed(4)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            direction = torch.randn(6, generator=generator, dtype=torch.float64)
            assert sum_of_distances(x, found.point + size * direction) > least


def test_unit_directions_to_the_rows_cancel_at_the_point():
    x = rows().double()
    found = geometric_median.geometric_median(x)
    towards = torch.nn.functional.normalize(x - found.point, dim=1)
    assert float(towards.mean(0).norm()) < 1e-5
    assert found.iterations < MAX_ITERATIONS


def test_of_numbers_it_is_the_median():
    x = torch.tensor([[-7.0], [1.0], [2.0], [4.0], [900.0]])
    found = geometric_median.geometric_median(x)
    assert abs(float(found.point) - 2.0) < 0.05


def test_a_few_huge_rows_hardly_move_it():
    x = rows()
    before = geometric_median.geometric_median(x).point
    x[:5] += 1e6
    after = geometric_median.geometric_median(x).point
    assert float((after - before).norm()) < 0.1
    assert float((x.double().mean(0) - before).norm()) > 1e3


def test_equal_rows_are_their_own_median():
    x = torch.full((9, 3), 2.5)
    found = geometric_median.geometric_median(x)
    assert torch.equal(found.point, torch.full((3,), 2.5, dtype=torch.float64))
