import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.config import load_config
from launcher.plan.estimate import plan_run
from launcher.plan.fit import warnings
from launcher.plan.table import to_json, to_page
from selection.errors import ConfigError
from tests.unit.launcher.test_config import CONFIGS

ELSEWHERE = ("data.train=nowhere/train-*.tar", "data.heldout=nowhere/heldout-*.tar")
"""What `make quickstart` leaves in a working copy is not counted."""

DESCRIBED = (*ELSEWHERE, "plan.num_pairs=1000000", "plan.pair_bytes=3000")
COUNTED = (*DESCRIBED, "rounds=3", "train.batch_size=64", "encoder.width=128", "encoder.dim=128")
"""With the numbers that the tests count with."""

OVERLAP = ("selection.refresh.mode=overlap", "selection.refresh.embeddings=computed")
PRODUCTION = [
    Path("configs") / f"{name}.yaml"
    for name in (
        "clip_vit_b16",
        "internet_scale",
        "paper/cifar100",
        "paper/tiny_imagenet",
        "text_embedding",
    )
]
MAX_S = 5


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_shipped_config_is_planned(path):
    overrides = () if load_config(path).plan.num_pairs else DESCRIBED
    plan = plan_run(load_config(path, overrides))
    assert plan.total_s > 0
    assert plan.disk.peak_bytes > plan.disk.embeddings_bytes > 0
    assert "at its peak" in to_page(plan)
    json.dumps(to_json(plan))


@pytest.mark.parametrize("path", PRODUCTION, ids=str)
def test_production_configs_use_what_they_ask_for(path):
    config = load_config(path)
    gpus = config.slurm.nodes * config.slurm.gpus_per_node
    assert config.train.num_ranks == config.selection.embed.num_workers == gpus
    used = config.train.cpus_per_rank + config.train.reader_processes
    assert used * config.slurm.gpus_per_node <= config.slurm.cpus_per_node
    embedding = config.selection.embed.cpus_per_worker * config.slurm.gpus_per_node
    assert embedding <= config.slurm.cpus_per_node
    assert not any("GPU" in warning for warning in warnings(plan_run(config)))


def test_it_starts_and_writes_nothing_and_is_quick(tmp_path):
    heavy = "torch", "ray", "deepspeed", "transformers"
    code = (
        "import sys; from launcher.cli import main; "
        "status = main(['plan', *sys.argv[1:]]); "
        f"print([m for m in {heavy} if m in sys.modules], status)"
    )
    config = Path("configs/internet_scale.yaml").absolute()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code, str(config)],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path.cwd())},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stdout.splitlines()[-1] == "[] 0"
    assert "2,000,000,000 pairs" in result.stdout
    assert after.ru_utime - before.ru_utime < MAX_S
    assert not list(tmp_path.iterdir())


def test_the_command_prints_plain_values(capsys):
    assert main(["plan", "configs/quickstart.yaml", "--json", *COUNTED]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["splits"][0]["num_pairs"] == 1_000_000
    assert values["num_steps"] == 3 * (1_000_000 // 64)
    assert values["disk"]["schedules_bytes"] == pytest.approx(3 * 8e6, rel=0.01)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("plan.num_pairs=2000000000", "slurm.memory_per_node=4G"),
            r"selection from a region needs .* on one node, but slurm\.memory_per_node gives 4\.29 GB; "
            r"lower selection\.regions\.max_pairs",
        ),
        (
            ("plan.num_pairs=2000000000", "slurm.memory_per_node=64G"),
            r"putting regions together needs 72\.6 GB on one node",
        ),
        (
            (
                *("plan.num_pairs=2000000000", "selection.regions.cpus_per_region=1"),
                *("slurm.cpus_per_node=8", "slurm.memory_per_node=80G"),
            ),
            r"8 regions side by side needs .*max_pairs, or raise selection\.regions\.cpus_per_region",
        ),
        (
            ("selection.regions.max_pairs=9000000", "slurm.memory_per_node=1G"),
            r"selection from all pairs at once needs .* on one node",
        ),
        (
            ("train.use_gpu=true", "slurm.gpus_per_node=2", "train.batch_size=200000"),
            r"a rank needs .* of GPU memory, but a100 has 80 GB",
        ),
        (("train.use_gpu=true", "slurm.gpus_per_node=8"), "has 8 GPUs; the others train nothing"),
        (
            (
                "train.use_gpu=true",
                "slurm.gpus_per_node=2",
                "selection.refresh.embeddings=computed",
            ),
            "so CPUs embed while the GPUs wait",
        ),
        (
            (
                "train.use_gpu=true",
                "slurm.gpus_per_node=2",
                "selection.embed.gpus_per_worker=1",
            ),
            "ranks keep the GPUs that embedding workers wait for",
        ),
        (
            ("selection.embed.num_workers=5000", "selection.refresh.embeddings=computed"),
            "a shard goes to one worker",
        ),
        (("slurm.nodes=2",), r"nobody says what nodes have; set slurm\.memory_per_node"),
        (
            ("slurm.memory_per_node=1G", "train.num_ranks=2"),
            "2 ranks of a node need .* lower train.num_ranks",
        ),
        (("selection.graph.index=flat",), "choose more rarely"),
        (
            (*OVERLAP, "selection.embed.cpus_per_worker=500"),
            r"mode is overlap, but ranks keep 2 of the 1 nodes' \d+ CPUs, .* needs 500 on one",
        ),
        (
            (
                *(*OVERLAP, "train.num_ranks=1"),
                *("slurm.cpus_per_node=4", "slurm.memory_per_node=1G"),
            ),
            r"selection beside 1 ranks of a node needs .*set selection\.refresh\.mode to alternate",
        ),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    config = load_config(Path("configs/quickstart.yaml"), [*DESCRIBED, *overrides])
    assert re.search(message, "\n".join(warnings(plan_run(config))))


def test_more_pairs_take_more_regions_and_no_larger_nodes():
    def plan(num_pairs):
        overrides = [*DESCRIBED, f"plan.num_pairs={num_pairs}", "slurm.nodes=4"]
        return plan_run(load_config(Path("configs/quickstart.yaml"), overrides))

    small, large = plan(10**8), plan(10**9)
    assert (small.num_parts, large.num_parts) == (12, 112)
    assert small.selection == large.selection
    assert large.disk.sorted_bytes == 10 * small.disk.sorted_bytes > large.disk.embeddings_bytes
    took = [{stage.name: stage.seconds for stage in one.stages} for one in (small, large)]
    turns = 28 / 3  # of 4 nodes
    assert took[1]["neighbors"] == pytest.approx(turns * took[0]["neighbors"], rel=0.15)
    assert "selection of one of 112 regions" in to_page(large)


def test_steps_are_those_that_a_run_takes():
    osgd = [*COUNTED, "selection.strategy=osgd", "selection.hardness.cluster_size=null"]
    plan = plan_run(load_config(Path("configs/quickstart.yaml"), osgd))
    later = 10**6 // 64 // 1500 * 150  # the first round is random
    assert plan.num_steps == pytest.approx(10**6 // 64 + 2 * later, rel=0.05)
    (train,) = (stage for stage in plan.stages if stage.name == "train, one epoch")
    whole = plan_run(load_config(Path("configs/quickstart.yaml"), COUNTED))
    (of_whole,) = (stage for stage in whole.stages if stage.name == "train, one epoch")
    share = plan.num_steps / whole.num_steps
    assert train.times * train.flops == pytest.approx(share * of_whole.times * of_whole.flops)


def test_ranks_are_spread_over_the_nodes_of_a_cluster():
    overrides = [*DESCRIBED, "ray.address=head:6379", "ray.num_nodes=4", "train.use_gpu=true"]
    overrides += ["train.num_ranks=32", "train.batch_size=1024", "train.cpus_per_rank=2"]
    there = plan_run(load_config(Path("configs/quickstart.yaml"), overrides)).resources
    assert (there.num_nodes, there.cpus_per_node, there.gpus_per_node) == (4, 16, 8)


def test_nodes_that_select_several_regions_side_by_side():
    def plan(*regions):
        overrides = [f"selection.regions.{setting}" for setting in regions]
        return plan_run(load_config(Path("configs/internet_scale.yaml"), overrides))

    def neighbors_s(plan):
        (stage,) = (stage for stage in plan.stages if stage.name == "neighbors")
        return stage.seconds

    whole, six, two = (plan(f"cpus_per_region={cpus}") for cpus in ("null", "16", "40"))
    assert [one.regions_per_node for one in (whole, six, two)] == [1, 6, 2]
    # 371 regions on 64 nodes of 96 CPUs, of which 16 have something to do
    assert neighbors_s(whole) == pytest.approx(6 * neighbors_s(six))
    assert neighbors_s(two) == pytest.approx(3 * neighbors_s(six))
    assert six.selection_bytes == 6 * whole.selection_bytes
    assert "6 regions side by side" in to_page(six)
    assert "side by side" not in to_page(whole)
    slow = plan("cpus_per_region=4")
    assert neighbors_s(slow) == pytest.approx(4 * neighbors_s(six))
    undivided = plan("max_pairs=2000000000")
    assert undivided.regions_per_node == 1


def test_embeddings_that_training_computed_are_read_and_not_made():
    def plan(embeddings):
        overrides = [*COUNTED, f"selection.refresh.embeddings={embeddings}"]
        return plan_run(load_config(Path("configs/quickstart.yaml"), overrides))

    computed, collected = plan("computed"), plan("collected")
    assert computed.disk.collected_bytes == 0
    assert collected.disk.collected_bytes == 10**6 * (2 * 128 * 4 + 8)
    names = [{stage.name for stage in one.stages} for one in (computed, collected)]
    assert names[0] - names[1] == {"embed"}
    assert names[1] - names[0] == {"gather"}
    assert collected.total_s < computed.total_s


def test_gpus_embed_faster_in_bfloat16_and_cpus_as_before():
    def embed_s(config, *overrides):
        plan = plan_run(load_config(Path("configs") / config, overrides))
        (stage,) = (stage for stage in plan.stages if stage.name == "embed")
        return stage.seconds

    def both(*arguments):
        return [
            embed_s(*arguments, f"selection.embed.precision={precision}")
            for precision in ("float32", "bfloat16")
        ]

    no_decoding = "selection.embed.cpus_per_worker=1000", "slurm.cpus_per_node=10000"
    on_gpus = both("internet_scale.yaml", *no_decoding)
    on_cpus = both("code_views.yaml", *DESCRIBED)
    assert on_gpus[0] / on_gpus[1] == pytest.approx(989 / 67, rel=0.01)  # of an H100
    assert on_cpus[0] == on_cpus[1]


def test_only_workers_with_a_shard_and_a_place_embed():
    def judge_s(num_workers, num_cpus):
        plan = plan_run(
            load_config(
                Path("configs/quickstart.yaml"),
                [
                    *COUNTED,
                    "data.heldout=none/heldout-{0..3}.tar",
                    "train.batch_size=128",
                    "train.num_ranks=128",  # so that judging takes long beside an epoch
                    f"selection.embed.num_workers={num_workers}",
                    f"ray.num_cpus={num_cpus}",
                ],
            )
        )
        (stage,) = (stage for stage in plan.stages if stage.name == "judge")
        return stage.seconds, [line for line in warnings(plan) if line.startswith("judging")]

    alone, _ = judge_s(1, 8)
    assert judge_s(4, 8)[0] == pytest.approx(alone / 4)
    assert judge_s(4, 2)[0] == pytest.approx(alone / 2)
    more_workers, (warning,) = judge_s(8, 8)
    assert more_workers == pytest.approx(alone / 4)
    assert "4 shards keep 4 of 8 embedding workers at work" in warning


def test_ranks_for_which_there_are_no_cpus():
    overrides = [*COUNTED, "train.num_ranks=32", "ray.num_cpus=2"]
    (warning,) = (
        line
        for line in warnings(plan_run(load_config(Path("configs/quickstart.yaml"), overrides)))
        if line.startswith("train.num_ranks x")
    )
    assert "is 32 CPUs, but there are 2; lower them" in warning


def test_what_overlaps_training_takes_no_time_until_there_is_more_of_it():
    def plan(mode, *more):
        refresh = f"selection.refresh.mode={mode}", "selection.refresh.embeddings=computed"
        overrides = [*COUNTED, "slurm.cpus_per_node=64", *refresh, *more]
        return plan_run(load_config(Path("configs/quickstart.yaml"), overrides))

    alternate, overlap = plan("alternate"), plan("overlap")
    took = {stage.name: stage.times * stage.seconds for stage in alternate.stages}
    select_s = sum(took.get(name, 0) for name in ("embed", "neighbors", "cluster"))
    train_s, judge_s = took["train, one epoch"], took["judge"]
    assert select_s < train_s / 2
    assert alternate.total_s == pytest.approx(sum(took.values()))
    # what is selected before the first two of three rounds, and the judging of the first two
    assert overlap.hidden_s == pytest.approx(select_s + 2 / 3 * judge_s)
    assert overlap.total_s == pytest.approx(alternate.total_s - overlap.hidden_s)
    assert "of it beside training" in to_page(overlap)
    assert "of it beside training" not in to_page(alternate)

    slow = plan("overlap", "selection.graph.index=flat", "slurm.cpus_per_node=10")
    every, steps_per_round = slow.config.train.checkpoint_every_steps, slow.num_steps / 3
    left = 1 - every / steps_per_round
    assert slow.hidden_s == pytest.approx(2 / 3 * (train_s * left + judge_s))
    assert overlap.disk.checkpoints_bytes == pytest.approx(5 / 3 * alternate.disk.checkpoints_bytes)


def test_a_round_is_too_short_to_be_overlapped():
    overrides = [*COUNTED, *OVERLAP, "train.checkpoint_every_steps=20000"]
    with pytest.raises(
        ConfigError, match=r"checkpoint_every_steps: is 20,000, .* the 15,625 steps"
    ):
        plan_run(load_config(Path("configs/quickstart.yaml"), overrides))


def test_what_cannot_be_divided():
    overrides = [*DESCRIBED, "selection.regions.max_pairs=1000", "selection.strategy=osgd"]
    with pytest.raises(ConfigError, match=r"selection\.regions\.max_pairs: .* strategy osgd"):
        plan_run(load_config(Path("configs/quickstart.yaml"), overrides))


def test_a_batch_that_is_larger_than_the_data():
    overrides = [*DESCRIBED, "train.batch_size=2000000"]
    with pytest.raises(ConfigError, match=r"data\.train has only 1000000 pairs"):
        plan_run(load_config(Path("configs/quickstart.yaml"), overrides))


def test_ranks_that_the_job_has_no_gpu_for():
    overrides = "train.use_gpu=true", "slurm.gpus_per_node=1"
    config = load_config(Path("configs/quickstart.yaml"), [*DESCRIBED, *overrides])
    with pytest.raises(ConfigError, match=r"slurm\.gpus_per_node: the job has 1 GPUs"):
        plan_run(config)


def test_random_batches_need_no_selection():
    config = load_config(Path("configs/quickstart.yaml"), [*DESCRIBED, "selection.strategy=random"])
    plan = plan_run(config)
    assert plan.selection is None
    assert not {"embed", "gather", "neighbors", "cluster"} & {stage.name for stage in plan.stages}
    assert "at its peak" not in to_page(plan)


def test_pictures_are_decoded_while_gpus_compute():
    def plan(*overrides):
        return plan_run(load_config(Path("configs/internet_scale.yaml"), overrides))

    def took(plan):
        return {stage.name: stage.seconds for stage in plan.stages}

    few, many = plan("train.reader_processes=1"), plan("train.reader_processes=6")
    assert took(few)["train, one epoch"] == pytest.approx(2e9 * 20_000 * 1e-7 / 512, rel=1e-3)
    assert any("ranks wait for their pictures" in warning for warning in warnings(few))
    assert not any("pictures" in warning for warning in warnings(many))
    slow = plan("selection.embed.cpus_per_worker=6")
    assert took(slow)["embed"] == pytest.approx(2 * took(many)["embed"])


def test_swaps_of_large_batches_take_memory():
    def working_bytes(batch_size):
        overrides = [*DESCRIBED, "selection.hardness.cluster_size=null"]
        overrides += [f"train.batch_size={batch_size}"]
        return plan_run(
            load_config(Path("configs/quickstart.yaml"), overrides)
        ).selection.working_bytes

    sizes = 64, 128, 4096
    assert [working_bytes(size) for size in sizes] == [800 * 10**6, 962 * 10**6, 16_834 * 10**6]


def test_a_model_whose_size_cannot_be_known_here_is_said_to_be_guessed():
    def told(name):
        changes = [f"encoder.text.pretrained={name}", "encoder.text.settings={}"]
        found = warnings(plan_run(load_config(Path("configs/text_embedding.yaml"), changes)))
        return [warning for warning in found if "encoder.text.pretrained" in warning]

    (warning,) = told("google-bert/bert-large-uncased")
    assert "is not here, so a bert of the usual size was counted" in warning
    assert not told("null")
