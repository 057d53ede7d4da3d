import pytest

from dlrm.config import load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.scaling.benchmark import job
from tests.support.training import tiny_dataset
from tests.unit.sharding.plans import world_of


class PlannedError(Exception):
    pass


def test_a_benchmark_saves_nothing_and_keeps_no_room_for_copies(monkeypatch, tmp_path):
    def stop(config, schema, world, process):
        assert process.host > 0
        raise PlannedError(config)

    monkeypatch.setattr(job, "build_engine", stop)
    config = load_options(BenchmarkConfig, None, ["train.average_decay=0.5"])
    with pytest.raises(PlannedError) as caught:
        job.measured(config, tiny_dataset(10), world_of(1), tmp_path)
    (planned,) = caught.value.args
    assert config.checkpoint.enabled
    assert not planned.checkpoint.enabled
    assert planned.train == config.train
