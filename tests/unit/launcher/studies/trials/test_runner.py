import pytest

from launcher.studies.trials.runner import share_cores


@pytest.mark.parametrize(
    ("places", "cpus", "expected"),
    [
        ([("a", [0, 1, 2, 3])] * 2, 2, [[0, 1], [2, 3]]),
        ([("a", [4, 5]), ("b", [4, 5])], 2, [[4, 5], [4, 5]]),  # two machines
        ([("a", [0, 1, 2])] * 2, 2, [[0, 1], [0, 1, 2]]),  # more slots than cores: not held
        ([("a", [0])], 2, [[0]]),
    ],
)
def test_every_slot_has_cores_of_its_own(places, cpus, expected):
    assert share_cores(places, cpus) == expected
