"""Where memory ends for real: a line with what was asked, when, and what to change there."""

import re
import resource
from pathlib import Path

import torch

from dlrm.checkpoint.snapshot import Snapshots
from dlrm.checkpoint.tensors import GlobalTensor, Shard
from dlrm.command.failure import judge
from dlrm.config import load_config
from dlrm.data.loader import BatchLoader
from dlrm.data.order import SampleOrder
from dlrm.memory import MemoryAccount, expect
from dlrm.train.engine import build_engine
from dlrm.train.evaluator import Evaluator
from tests.support.ranks import run_ranks
from tests.support.training import this_world, tiny_source

BATCH, WIDTH = 4096, 32768  # activations of 512 MiB
OPTIONS = [
    *("model.bottom_mlp=8,8", "model.embedding_dim=8", f"model.top_mlp={WIDTH},1", "sharding.types=table_wise"),
    f"train.global_batch_size={BATCH}",
]
MORE = 300 * 2**20


def stop_growing():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE, now + MORE))


def run_out(rank, world_size):
    """What is said when memory ends in each phase."""
    config, source, world = load_config(None, OPTIONS), tiny_source(BATCH), this_world()
    training, scoring = (
        build_engine(config, source.schema, world) for _ in range(2)
    )  # a step that fails spoils its own
    loader = BatchLoader(source, SampleOrder(BATCH, global_batch_size=BATCH), rank=rank, world_size=world_size)
    huge = GlobalTensor("x", (2**27,), torch.float32, (Shard((0,), torch.zeros(1).expand(2**27)),))
    large = tiny_source(10, rows=(16_000_000, 50)).schema  # 488 MiB
    phases = {
        "step": lambda: list(training.stepper.train(loader.batches(0, 0, 1), first_step=1)),
        "evaluation": lambda: Evaluator(scoring.stepper, scoring.average, world).evaluate(loader),
        "save": lambda: Snapshots().snapshot([huge]),
        "build": lambda: build_engine(config, large, world),
    }
    stop_growing()
    said = {}
    for name, run in phases.items():
        expect(MemoryAccount())
        try:
            run()
        except Exception as error:
            verdict = judge(error, rank=1, world_size=2)
            said[name] = (verdict.kind, verdict.exit_code, verdict.details, verdict.line)
            if name == "step":
                expect(training.memory)
                said["expected"] = (*said[name][:3], judge(error, rank=1, world_size=2).line)
    return said


def test_no_more_memory_is_a_line_of_the_rank_in_every_phase():
    (said,) = run_ranks(run_out, 1)
    assert {name: outcome[:3] for name, outcome in said.items()} == dict.fromkeys(
        ("step", "expected", "evaluation", "save", "build"), ("user", 2, "")
    )
    lines = {name: outcome[3].removeprefix("rank 1: out of memory on the host ") for name, outcome in said.items()}
    assert lines["step"].startswith("in a training step (512.0 MiB asked for); lower train.global_batch_size")
    assert re.match(
        r"in a training step \(512.0 MiB asked for\); \d\.\d GiB expected \(activations 1\.\d GiB, .*\); lower train\.",
        lines["expected"],
    )
    assert lines["evaluation"].startswith("while evaluating (512.0 MiB asked for); lower evaluation.global_batch_size")
    assert lines["save"].startswith("while saving or loading a checkpoint (512.0 MiB asked for); saving needs memory")
    assert re.match(
        r"while the model was built \(488.3 MiB asked for\); \d\.\d GiB expected \(.*tables 488\.3 MiB.*\); use smaller",
        lines["build"],
    )
