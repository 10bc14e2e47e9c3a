from launcher.record import read_record
from launcher.report import sentences


def test_the_others_are_set_beside_the_first(make_run):
    records = [read_record(make_run("a", strategy="random")), read_record(make_run("b"))]
    records.append(read_record(make_run("c", num_finished=0)))
    *ends, note = sentences.describe_learning(records)
    assert ends == [
        "a reaches an MRR of 0.5000 after 8 steps and 20.0 s of training and selection.",
        "b reaches an MRR of 0.5000 (+0.0000 to a) after 8 steps and 25.0 s of training and selection.",
        "c has not finished a round yet, so its retrieval has not been judged.",
    ]
    assert "not how well" in note
    assert sentences.describe_schedules(records[:2]) == [
        "a has had random batches only.",
        "The batches of b have a mean loss of 3.000; random ones of the same embeddings have 2.000.",
    ]
    assert "61% training, 15% selection" in sentences.describe_seconds(records)[1]


def test_how_far_a_run_is(make_run):
    record = read_record(make_run(num_finished=1, alarms=("collapsed",)))
    text = sentences.describe_run(record)
    assert text.startswith("run: spectral batches of 8, 32 pairs, seed 0; 1 of 2 rounds finished; ")
    assert text.endswith("last written 2023-11-14 22:13 UTC")
    assert sentences.spell_alarms([record]) == ["run, round 1: collapsed"]


def test_a_run_that_has_hardly_begun_says_so(make_run):
    record = read_record(make_run(num_finished=0))
    assert "has not finished a round" in sentences.describe_learning([record])[0]
    assert sentences.describe_seconds([record]) == []
