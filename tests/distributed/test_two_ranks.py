"""Two real ranks, gloo and DeepSpeed, against one process of plain torch."""

import math
import shutil

import numpy as np
import pytest
import torch

from launcher.plan.disk import checkpoint_bytes
from launcher.run_dir import read_lines
from selection.artifacts import has_manifest
from selection.collected import collected_folder, read_collected
from selection.schedule import open_schedule, schedule_folder, write_schedule
from tests.distributed import rank_programs
from tests.distributed.conftest import EPOCHS_PER_ROUND, LENGTH, NUM_PAIRS, NUM_ROUNDS
from tests.distributed.run_ranks import run_ranks
from trainer.checkpoint import (
    Position,
    checkpoint_folder,
    complete_checkpoints,
    latest_checkpoint,
    load_weights,
    open_checkpoint,
)
from trainer.embedder import CheckpointEmbedder
from trainer.engine import learning_rate_ratio, parameter_groups
from trainer.losses import info_nce
from trainer.metrics import FILE
from trainer.model import build_model

STAGES = (0, 1, 2, 3)
NUM_STEPS = 24
ENDS = {"short": (17, []), "long": (29, []), "long-crashed": (29, [27])}
"""By name, runs that end at another step than their last schedule, and the steps at which they crash."""

FOLDERS = {"windows-crashed": "windows [1e-3] (crashed)+"}
"""By name, folders that DeepSpeed would take for patterns."""

AHEAD = {"ahead": {}, "ahead-crashed": {}, "ahead-computed": {"embeddings_folder": None}}
"""By name, runs whose next schedule is selected while they train, and what changes their job."""

# Round-off of float32 sums in another order, 6e-8 relative, grows over 24 steps of Adam, which divides by gradients as
# small as eps: 2e-6 was measured. A wrong factor in any gradient shows up above 1e-2.
LOSS_TOLERANCE = 1e-4

# bfloat16 has three digits, and at this learning rate a run of 24 steps ends 0.12 from the one in float32. This only
# tells a run that learns from one that does not: without learning the last losses would be five times as high.
BFLOAT16_LOSS_TOLERANCE = 0.25


@pytest.mark.parametrize("world_size", [2, 3])
def test_gathered_gradients_equal_those_of_one_process(world_size, tmp_path):
    # At temperature 0.03 the bound of the temperature is active.
    cases = [("float64", 0.2), ("float64", 0.03), ("float32", 0.2)]
    ranks = run_ranks(rank_programs.mean_contrastive_gradients, world_size, tmp_path, cases=cases)
    for case, (dtype, temperature) in enumerate(cases):
        loss, gradients = rank_programs.contrastive_gradients(getattr(torch, dtype), temperature)
        # A few units in the last place of sums of a dozen terms.
        tolerance = 1e-13 if dtype == "float64" else 1e-6
        for mean_loss, mean_gradients, own_scale_gradient in (rank[case] for rank in ranks):
            torch.testing.assert_close(mean_loss, loss, rtol=tolerance, atol=tolerance)
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    mean_gradients[name], gradient, rtol=tolerance, atol=tolerance, msg=name
                )
            torch.testing.assert_close(
                own_scale_gradient, gradients["logit_scale"], rtol=tolerance, atol=tolerance
            )


@pytest.fixture(scope="module")
def runs(workshop, tmp_path_factory):
    """Names of finished runs: every stage, uninterrupted and with two crashes; all by one pair of ranks."""
    crashes = {}
    for stage in STAGES:
        train = {"zero_stage": stage, "keep_checkpoints": 9}
        crashes[f"stage-{stage}"] = (train, [])
        # Before the 9th step of round 0, whose last checkpoint is at 5; and of round 1, before it has one.
        crashes[f"crashed-{stage}"] = (train, [8, 14])
    for stage in STAGES[1:]:
        train = {"zero_stage": stage, "precision": "bfloat16", "keep_checkpoints": 9}
        crashes[f"bfloat16-{stage}"] = (train, [])
        crashes[f"bfloat16-crashed-{stage}"] = (train, [8])
    windows = {"zero_stage": 1, "log_every_steps": 4}
    crashes["windows"] = (windows, [])
    crashes["windows-crashed"] = (windows, [7])
    crashes |= {name: ({}, steps) for name, (_, steps) in ENDS.items()}
    crashes |= {"dropout": ({}, []), "dropout-crashed": ({}, [8, 14])}
    jobs = {
        name: workshop.job(FOLDERS.get(name, name), **train) for name, (train, _) in crashes.items()
    }
    dropout = workshop.encoder_config.model_copy(update={"dropout": 0.1})
    for name in ("dropout", "dropout-crashed"):
        jobs[name] = jobs[name].model_copy(update={"encoder": dropout})
    for name, changes in AHEAD.items():
        jobs[name] = workshop.job(name, keep_checkpoints=1).model_copy(
            update={"select_ahead": True, **changes}
        )
        crashes[name] = ({}, [8, 14] if "crashed" in name else [])
    for name, (num_steps, _) in ENDS.items():
        length = LENGTH.model_copy(update={"num_steps": num_steps})
        jobs[name] = jobs[name].model_copy(update={"length": length})
    # What a crash in the middle of a save leaves behind.
    leftover = checkpoint_folder(jobs["crashed-2"].checkpoints_folder, 5)
    leftover.mkdir(parents=True)
    (leftover / "zero_pp_rank_7_mp_rank_00_optim_states.pt").write_bytes(b"half")
    messages, _ = run_ranks(
        rank_programs.train_jobs,
        2,
        tmp_path_factory.mktemp("ranks"),
        jobs=[job.model_dump_json() for job in jobs.values()],
        crash_at_steps=[steps for _, steps in crashes.values()],
    )
    return jobs, dict(zip(jobs, messages, strict=True))


def metric(job, name="train/loss"):
    return {line["step"]: line[name] for line in read_lines(job.metrics_folder / FILE)}


@pytest.fixture(scope="module")
def reference(workshop):
    """One process that holds whole batches, in plain torch: losses, gradient norms, the final model, and u and v of
    every pair as they were in each epoch of round 0, or after it where the pair was left over."""
    job = workshop.job("reference")
    train, optimizer_config = job.train, job.train.optimizer
    model = build_model(job.encoder, job.encoder_folder, train, job.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optimizer_config.weight_decay),
        betas=optimizer_config.betas,
        eps=optimizer_config.eps,
    )

    def embed(ids):
        return model(model.encoder.collate(workshop.index.read(ids)))

    losses, norms = [], []
    collected = np.zeros((EPOCHS_PER_ROUND, 2, NUM_PAIRS, job.encoder.dim))
    for round_number in range(NUM_ROUNDS):
        schedule = open_schedule(schedule_folder(workshop.schedules_folder, round_number))
        for step in range(schedule.num_batches * EPOCHS_PER_ROUND):
            u, v, scale = embed(schedule.batch_at(step))
            loss = info_nce(u, v, scale)
            epoch = step // schedule.num_batches
            if round_number == 0:
                collected[epoch][:, schedule.batch_at(step)] = u.detach(), v.detach()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(
                model.parameters(), optimizer_config.max_grad_norm
            )
            ratio = learning_rate_ratio(len(losses), LENGTH.total_steps([]), optimizer_config)
            for group in optimizer.param_groups:
                group["lr"] = optimizer_config.lr * ratio
            optimizer.step()
            losses.append(loss.item())
            norms.append(norm.item())
            if round_number == 0 and (step + 1) % schedule.num_batches == 0:
                u, v, _ = embed(schedule.leftover)
                collected[epoch][:, schedule.leftover] = u.detach(), v.detach()
    return losses, norms, model, collected


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_trains_as_one_process_does(runs, reference, stage):
    jobs, _ = runs
    losses, norms, model, _ = reference
    job = jobs[f"stage-{stage}"]
    assert list(metric(job)) == list(range(1, NUM_STEPS + 1))
    assert list(metric(job).values()) == pytest.approx(losses, rel=LOSS_TOLERANCE)
    assert list(metric(job, "train/grad_norm").values()) == pytest.approx(norms, rel=1e-2)
    assert losses[-1] < losses[0] - 0.5
    weights, manifest = load_weights(complete_checkpoints(job.checkpoints_folder)[-1])
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-3, msg=name)
    assert manifest["temperature"] == pytest.approx(math.exp(-model.logit_scale.item()), rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_crashed_twice_equals_one_that_did_not(runs, stage):
    jobs, messages = runs
    crashed, whole = jobs[f"crashed-{stage}"], jobs[f"stage-{stage}"]
    assert [message.split(";")[0] for message in messages[f"crashed-{stage}"]] == [
        "RuntimeError: crash before step 9",
        "RuntimeError: crash before step 15",
    ]
    for name in ("train/loss", "train/temperature", "train/lr", "train/grad_norm", "epoch"):
        assert metric(crashed, name) == metric(whole, name)
    for path in complete_checkpoints(whole.checkpoints_folder):
        expected, _ = load_weights(path)
        found, _ = load_weights(crashed.checkpoints_folder / path.name)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_bfloat16_trains_and_resumes(runs, reference, stage):
    jobs, _ = runs
    losses, *_ = reference
    found = metric(jobs[f"bfloat16-{stage}"])
    assert list(found.values()) == pytest.approx(losses, rel=BFLOAT16_LOSS_TOLERANCE)
    assert metric(jobs[f"bfloat16-crashed-{stage}"]) == found


@pytest.mark.parametrize(
    "name",
    [*(f"stage-{stage}" for stage in STAGES), *(f"bfloat16-{stage}" for stage in STAGES[1:])],
)
def test_a_plan_knows_the_bytes_of_a_checkpoint(runs, name):
    jobs, _ = runs
    job = jobs[name]
    folder = complete_checkpoints(job.checkpoints_folder)[-1]
    weights, _ = load_weights(folder)
    planned = checkpoint_bytes(sum(map(torch.numel, weights.values())), job.train)
    found = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert planned == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize("stage", STAGES)
def test_embeddings_that_training_computes_are_noted_once_for_every_pair(runs, reference, stage):
    """Those of the first round; nobody asks for those of the last one. A crash changes nothing."""
    jobs, _ = runs
    _, _, _, collected = reference
    whole, crashed = (
        read_collected(collected_folder(jobs[name].embeddings_folder, 0), 0, NUM_PAIRS)
        for name in (f"stage-{stage}", f"crashed-{stage}")
    )
    np.testing.assert_array_equal(whole, crashed)
    np.testing.assert_allclose(whole, collected[-1], atol=2e-3)
    assert not collected_folder(jobs[f"stage-{stage}"].embeddings_folder, 1).exists()


def test_embeddings_to_select_from_ahead_are_those_of_the_first_epoch(runs, reference):
    jobs, _ = runs
    _, _, _, collected = reference
    whole, crashed = (
        read_collected(collected_folder(jobs[name].embeddings_folder, 0), 0, NUM_PAIRS)
        for name in ("ahead", "ahead-crashed")
    )
    np.testing.assert_array_equal(whole, crashed)
    np.testing.assert_allclose(whole, collected[0], atol=2e-3)
    assert np.abs(whole - collected[-1]).max() > 0.02  # it makes a difference


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ahead", [12, 18]), ("ahead-crashed", [12, 18]), ("ahead-computed", [12, 17])],
)
def test_checkpoints_are_kept_for_who_selects_ahead(runs, name, kept):
    """That before the last round, and that inside to select from; training is as without."""
    jobs, _ = runs
    folders = complete_checkpoints(jobs[name].checkpoints_folder)
    assert folders == [
        checkpoint_folder(jobs[name].checkpoints_folder, step) for step in (*kept, NUM_STEPS)
    ]
    assert metric(jobs[name]) == metric(jobs["stage-1"])


def test_log_lines_are_means_that_a_crash_does_not_change(runs):
    jobs, _ = runs
    steps = list(metric(jobs["windows"]))
    assert steps == [4, 5, 8, 10, 12, 16, 17, 20, 22, 24]
    assert metric(jobs["windows"]) == metric(jobs["windows-crashed"])
    every_step = metric(jobs["stage-1"])
    for start, stop in zip([0, *steps], steps, strict=False):
        mean = np.mean([every_step[step] for step in range(start + 1, stop + 1)])
        assert metric(jobs["windows"])[stop] == pytest.approx(mean, rel=1e-6)


def test_a_crash_changes_no_random_number(runs):
    jobs, _ = runs
    assert metric(jobs["dropout"]) == metric(jobs["dropout-crashed"])
    assert metric(jobs["dropout"]) != metric(jobs["stage-1"])


def test_the_last_round_ends_where_the_run_does(runs):
    """Before or after its schedule does, and the learning rate has fallen by then."""
    jobs, _ = runs
    for name, (num_steps, _) in ENDS.items():
        assert list(metric(jobs[name])) == list(range(1, num_steps + 1))
        checkpoint = latest_checkpoint(jobs[name].checkpoints_folder, "of-the-test")
        assert checkpoint.position == Position(round=2, step_in_round=0, step=num_steps)
        lr, optimizer = metric(jobs[name], "train/lr"), jobs[name].train.optimizer
        assert lr[num_steps] == pytest.approx(optimizer.lr * optimizer.final_lr_ratio, abs=1e-9)
        assert lr[num_steps - 1] > 0
    assert metric(jobs["long"]) == metric(jobs["long-crashed"])


def test_the_newest_checkpoints_are_kept(runs):
    jobs, _ = runs
    names = [path.name for path in complete_checkpoints(jobs["windows"].checkpoints_folder)]
    assert names == ["step-00000022", "step-00000024"]
    checkpoint = latest_checkpoint(jobs["windows"].checkpoints_folder, "of-the-test")
    assert checkpoint.position == Position(round=2, step_in_round=0, step=24)
    assert (checkpoint.manifest["world_size"], checkpoint.manifest["zero_stage"]) == (2, 1)


def test_each_rank_has_its_log(runs):
    jobs, _ = runs
    for rank in (0, 1):
        text = (jobs["crashed-2"].log_folder / f"rank-{rank}.log").read_text()
        assert "crash before step 9" in text
        assert "going on from" in text


@pytest.mark.parametrize("stage", STAGES)
def test_an_embedding_worker_reads_every_stage(runs, reference, workshop, stage):
    jobs, _ = runs
    _, _, model, _ = reference
    newest = complete_checkpoints(jobs[f"stage-{stage}"].checkpoints_folder)[-1]
    embedder = CheckpointEmbedder(workshop.encoder_config, workshop.encoder_folder, newest)
    samples = workshop.index.read(np.arange(20))
    U, V = embedder.embed_batch(embedder.collate(samples))
    with torch.no_grad():
        u, v = model.encoder(model.encoder.collate(samples))
    np.testing.assert_allclose(U, u, atol=2e-3)
    np.testing.assert_allclose(V, v, atol=2e-3)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_another_number_of_ranks_goes_on_at_every_stage(runs, workshop, tmp_path, num_ranks):
    jobs, _ = runs
    names = [*(f"stage-{stage}" for stage in STAGES), *(f"bfloat16-{s}" for s in STAGES[1:])]
    others = {}
    for name in names:
        precision, stage = jobs[name].train.precision, jobs[name].train.zero_stage
        others[name] = job = workshop.job(
            f"{name}, on {num_ranks} (+)",
            zero_stage=stage,
            num_ranks=num_ranks,
            precision=precision,
        )
        shutil.copytree(jobs[name].checkpoints_folder, job.checkpoints_folder)
        for path in complete_checkpoints(job.checkpoints_folder):
            if path.name > "step-00000017":
                shutil.rmtree(path)
    texts = [job.model_dump_json() for job in others.values()]
    crashes = [[]] * len(texts)
    run_ranks(rank_programs.train_jobs, num_ranks, tmp_path, jobs=texts, crash_at_steps=crashes)
    for name, job in others.items():
        found, whole = metric(job), metric(jobs[name])
        is_short = job.train.precision == "bfloat16"
        tolerance = BFLOAT16_LOSS_TOLERANCE if is_short else LOSS_TOLERANCE
        assert list(found) == list(range(18, NUM_STEPS + 1))
        assert found == pytest.approx({step: whole[step] for step in found}, rel=tolerance)
        newest = latest_checkpoint(job.checkpoints_folder, "of-the-test")
        assert newest.manifest["world_size"] == num_ranks
        assert not (job.checkpoints_folder / "universal").exists()
        if is_short:
            weights, _ = load_weights(newest.folder)
            assert weights["num_steps"] == NUM_STEPS


def test_no_run_left_an_incomplete_checkpoint(runs):
    jobs, _ = runs
    for job in jobs.values():
        assert all(has_manifest(path) for path in job.checkpoints_folder.glob("step-*"))


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do_and_leaves_no_thread_behind(runs, tmp_path):
    jobs, _ = runs
    before = read_lines(jobs["windows"].metrics_folder / FILE)
    ranks = run_ranks(rank_programs.train_one, 2, tmp_path, job=jobs["windows"].model_dump_json())
    assert read_lines(jobs["windows"].metrics_folder / FILE) == before
    # Threads of gloo that outlive the interpreter abort it now and then, after all the work is done.
    assert ranks == [[], []]


def test_leftovers_of_a_crash_are_no_part_of_a_checkpoint(runs):
    jobs, _ = runs
    found, expected = (
        open_checkpoint(checkpoint_folder(jobs[name].checkpoints_folder, 5), "of-the-test")
        for name in ("crashed-2", "stage-2")
    )
    assert found.manifest["files"].keys() == expected.manifest["files"].keys()


def test_every_rank_refuses_another_schedule_or_configuration(runs, workshop, tmp_path):
    jobs, _ = runs
    shutil.copytree(workshop.schedules_folder, tmp_path / "schedules")
    old = open_schedule(schedule_folder(workshop.schedules_folder, 1))
    fields = {name: old.manifest[name] for name in ("seed", "round", "strategy")}
    write_schedule(
        schedule_folder(tmp_path / "schedules", 1), old.batches[::-1], old.leftover, fields
    )
    shutil.copytree(jobs["stage-0"].checkpoints_folder, tmp_path / "checkpoints")
    for path in complete_checkpoints(tmp_path / "checkpoints"):
        if path.name > "step-00000017":  # inside round 1
            shutil.rmtree(path)
    folders = {
        "schedules_folder": tmp_path / "schedules",
        "checkpoints_folder": tmp_path / "checkpoints",
    }
    other_schedule = workshop.job("other-schedule", zero_stage=0).model_copy(update=folders)
    other_config = other_schedule.model_copy(update={"config_hash": "of-another"})
    ranks = run_ranks(
        rank_programs.train_or_refuse,
        2,
        tmp_path / "ranks",
        jobs=[job.model_dump_json() for job in (other_schedule, other_config)],
    )
    for messages in ranks:
        assert "schedule of round 1" in messages[0]
        assert "expected of-another" in messages[1]
