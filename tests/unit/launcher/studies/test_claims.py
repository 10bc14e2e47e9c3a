import math

import pytest

from launcher.studies.claims import Claim, Table, claims_table


@pytest.mark.parametrize(
    ("found", "relation", "passed"),
    [
        (1.0, "=", True), (1.00009, "=", True), (0.9998, "=", False), (math.nan, "=", False),
        (0.5, "<=", True), (1.1, "<=", False), (1.5, ">=", True), (0.9, ">=", False),
        (math.nan, ">=", False), (math.nan, "<=", False),
    ],
)  # fmt: skip
def test_what_passes(found, relation, passed):
    claim = Claim("Theorem 9", "a number", found, 1.0, relation)
    assert claim.passed == passed
    assert claim.to_json()["passed"] == passed
    assert ("PASS" in claims_table([claim])) == passed


def test_a_table_for_people_and_one_for_programs():
    table = Table("Title", "Text.", ("size", "value"), [["a", "1"], ["b", "2"]])
    assert table.to_markdown().startswith("## Title\n\nText.\n\n| size | value |\n| ---- | ----: |")
    assert table.to_json()["rows"] == [{"size": "a", "value": "1"}, {"size": "b", "value": "2"}]
