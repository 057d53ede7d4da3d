from contextlib import contextmanager
from types import SimpleNamespace

import torch

from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.memory import TABLES, Bytes, MemoryAccount
from dlrm.run.console import Console
from dlrm.train import job
from dlrm.train.schedule import Schedule


def test_what_may_surprise_about_the_device_is_said_before_anything_else(monkeypatch, capsys):
    notice = "training on CPU: host n1 has 4 CUDA device(s) for 8 rank(s); start 4 there to use CUDA"

    @contextmanager
    def joined(config):
        yield World(RankInfo(), torch.device("cpu"), "gloo", OneProcess(), notice)

    monkeypatch.setattr(job, "joined_world", joined)
    monkeypatch.setattr(job, "_train", lambda config, world, display: display.say("building") or {"stopped": ""})
    job.run_training(load_config(None, []))
    assert capsys.readouterr().out.split() == f"{notice} building".split()


def test_what_the_memory_account_does_not_have_is_a_line_at_the_start(tmp_path, capsys):
    config, world = load_config(None, []), World(RankInfo(), torch.device("cpu"), "gloo", OneProcess())
    schedule = Schedule.of(config.train, seed=0, num_samples=10**6)
    engine = SimpleNamespace(placements=[], hardware="CPU", table_weights=1, dense_weights=1)
    for missing in ("", "the activations of X are not in it"):
        account = MemoryAccount({TABLES: Bytes(host=2**30)}, missing)
        job._introduce(engine, schedule, tmp_path, world, Console(progress=False), account)
        said = capsys.readouterr().out.splitlines()
        assert any(line.startswith("memory of the host: 1.0 GiB expected") for line in said)
        assert (said[-1] == missing) == bool(missing)
