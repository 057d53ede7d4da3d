from contextlib import contextmanager

import torch

from dlrm.config import load_config
from dlrm.distributed.collectives import OneProcess
from dlrm.distributed.world import RankInfo, World
from dlrm.train import job


def test_what_may_surprise_about_the_device_is_said_before_anything_else(monkeypatch, capsys):
    notice = "training on CPU: host n1 has 4 CUDA device(s) for 8 rank(s); start 4 there to use CUDA"

    @contextmanager
    def joined(config):
        yield World(RankInfo(), torch.device("cpu"), "gloo", OneProcess(), notice)

    monkeypatch.setattr(job, "joined_world", joined)
    monkeypatch.setattr(job, "_train", lambda config, world, display: display.say("building") or {"stopped": ""})
    job.run_training(load_config(None, []))
    assert capsys.readouterr().out.split() == f"{notice} building".split()
