import pytest

from launcher.record import read_record
from launcher.report import tables
from tests.unit.launcher.report.run_folder import CHOSEN


def cells(table):
    """Cells by (row, column)."""
    return {
        (row[0], column): cell
        for row in table.rows
        for column, cell in zip(table.heading[1:], row[1:], strict=True)
    }


@pytest.fixture
def records(make_run):
    return [read_record(make_run("a", strategy="random")), read_record(make_run("b"))]


def test_headline(records):
    facts = {fact.label: (fact.value, fact.note) for fact in tables.headline(records[1])}
    assert facts["held-out MRR"] == ("0.5000", "u → v")
    assert facts["steps"] == ("8", "finished, 2 rounds")
    assert facts["training + selection"] == ("25.0 s", "20% of it selection")
    assert facts["batch loss vs random"] == ("1.50x", "on the same embeddings")
    assert tables.headline(records[0])[4].value == tables.NOTHING


def test_headline_of_a_run_that_has_hardly_begun(make_run):
    record = read_record(make_run(num_finished=0))
    facts = {fact.label: fact.value for fact in tables.headline(record)}
    assert (facts["held-out MRR"], facts["steps"]) == (tables.NOTHING, "2")


def test_learning_by_round(records):
    found = cells(tables.learning_table(records))
    assert found["b, round 1", "steps"] == "8"
    assert found["b, round 0", "seconds"] == "10.0"
    assert found["b, round 1", "seconds"] == "25.0"
    assert found["a, round 1", "seconds"] == "20.0"
    assert found["a, round 0", "MRR u → v"] == "0.2500"
    assert found["a, round 0", "training loss"] == "2.750"  # of 3.5, 3, 2.5, 2
    assert ("a, round 0", "validation MRR") not in found


def test_signals_by_round_leave_out_what_nobody_measured(records):
    found = cells(tables.schedules_table(records))
    assert found["b, round 1", "batch loss"] == f"{CHOSEN['batch_loss']:.3f}"
    assert found["b, round 1", "affinity captured"] == "25.0%"
    assert found["b, round 0", "batch loss"] == tables.NOTHING
    assert not {column for _, column in found} & {"mates kept", "isolated pairs"}


def test_seconds(records):
    found = cells(tables.seconds_table(records))
    assert found["b", "select"] == "3.0"
    assert found["b", "training + selection"] == "25.0"
    assert found["b", "all"] == "33.0"
    assert found["a", "embed"] == "0.0"


def test_only_settings_that_differ_are_compared(make_run):
    records = [read_record(make_run("a")), read_record(make_run("b", seed=3))]
    assert tables.configuration_table(records).rows == [["seed", "0", "3"]]
    assert tables.configuration_table(records[:1]).rows == []


def test_a_package_that_one_run_lacks(records):
    records[0].versions["faiss-cpu"] = "1.15"
    found = cells(tables.versions_table(records))
    assert found["torch", "b"] == "2.13.0"
    assert found["faiss-cpu", "b"] == tables.NOTHING
