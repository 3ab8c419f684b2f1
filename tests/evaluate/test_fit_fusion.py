"""How much ground photos count is chosen so that chance does not decide."""

import pytest

from geoview.evaluate.fusion import chosen_of
from geoview.index.fusion import Fusion

IMAGERY = Fusion(0.0, 0.3)


@pytest.mark.parametrize(
    ("found", "n", "wanted"),
    [
        ({IMAGERY: 0.50, Fusion(0.5, 0.3): 0.80, Fusion(1.0, 0.3): 0.70}, 100, Fusion(0.5, 0.3)),
        # Within a standard error of the best: five of a hundred and more.
        ({IMAGERY: 0.50, Fusion(0.5, 0.3): 0.53}, 100, IMAGERY),
        ({IMAGERY: 0.50, Fusion(0.5, 0.3): 0.53}, 10_000, Fusion(0.5, 0.3)),
        ({IMAGERY: 0.10, Fusion(0.3, 0.3): 0.78, Fusion(2.0, 0.3): 0.80}, 100, Fusion(0.3, 0.3)),
        # Of one weight, the offset that finds most.
        ({IMAGERY: 0.10, Fusion(0.5, 0.3): 0.78, Fusion(0.5, 0.9): 0.80}, 100, Fusion(0.5, 0.9)),
        ({IMAGERY: 0.0, Fusion(0.5, 0.3): 0.0}, 5, IMAGERY),
        ({IMAGERY: 1.0, Fusion(0.5, 0.3): 1.0}, 5, IMAGERY),
    ],
)
def test_the_smallest_weight_that_finds_enough(found, n, wanted):
    assert chosen_of(found, n) == wanted
