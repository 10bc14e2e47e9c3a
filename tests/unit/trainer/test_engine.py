import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn

import trainer
from selection.errors import ConfigError
from trainer.config import OptimizerConfig, TrainConfig
from trainer.engine import deepspeed_config, learning_rate_ratio, parameter_groups, process_group


def test_the_learning_rate_warms_up_and_decays_to_its_final_ratio():
    config = OptimizerConfig(warmup_steps=10, final_lr_ratio=0.1)
    ratios = [learning_rate_ratio(step, 110, config) for step in range(110)]
    assert ratios[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert ratios[10] == 1
    assert ratios[-1] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(ratios[10:]))
    middle = learning_rate_ratio(10 + 99 // 3, 110, config)
    assert middle == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 1), (5, 3), (5, 5), (0, 2)])
def test_short_runs_have_a_learning_rate(warmup_steps, total_steps):
    config = OptimizerConfig(warmup_steps=warmup_steps)
    ratios = [learning_rate_ratio(step, total_steps, config) for step in range(total_steps + 1)]
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert ratios[0] > 0


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(0, "float32"), (1, "float32"), (2, "bfloat16"), (3, "float32"), (3, "bfloat16")],
)
def test_the_configuration_follows_the_settings(stage, precision):
    config = TrainConfig(batch_size=12, num_ranks=3, zero_stage=stage, precision=precision)
    generated = deepspeed_config(config, 3)
    assert generated["train_batch_size"] == 12
    assert generated["train_micro_batch_size_per_gpu"] == 4
    assert generated["zero_optimization"]["stage"] == stage
    assert generated["bf16"]["enabled"] == (precision == "bfloat16")
    assert generated["gradient_clipping"] == config.optimizer.max_grad_norm


def test_bfloat16_without_zero_is_refused():
    with pytest.raises(ValidationError, match=r"zero_stage is 0.*take zero_stage=1"):
        TrainConfig(zero_stage=0, precision="bfloat16")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size is 12.*5 ranks"):
        deepspeed_config(TrainConfig(batch_size=12, num_ranks=3), 5)


def test_biases_norms_and_the_temperature_do_not_decay():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    model.logit_scale = nn.Parameter(model[0].weight.new_zeros(1))
    decayed, others = parameter_groups(model, 0.3)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[1].weight)}
    assert len(others["params"]) == 4
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)


def test_a_process_without_ranks_is_the_one_rank(monkeypatch):
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "DS_ACCELERATOR",
    ):
        monkeypatch.setenv(name, "")  # so that what is set below is undone at the end
        monkeypatch.delenv(name)
    with process_group(use_gpu=False):
        assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
        with process_group(use_gpu=False):
            pass
        assert dist.is_initialized()
    assert not dist.is_initialized()


def test_importing_the_worker_is_cheap():
    script = "import sys, trainer.worker; print([m for m in ('torch', 'deepspeed', 'ray') if m in sys.modules])"
    root = Path(trainer.__path__[0]).parent
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert found.stdout.strip() == "[]"
