"""The same trainings on a CUDA device: nccl, fused CUDA kernels, pinned batches. Skipped without one."""

import json

import pytest

from tests.support.command import run_command

pytestmark = pytest.mark.cuda

SMALL = [
    *("--data.train_samples", "6400", "--data.validation_samples", "1000", "--data.test_samples", "1000"),
    *("--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8", "--model.embedding_dim", "8"),
    *("--model.top_mlp", "16,1", "--train.global_batch_size", "128", "--logging.every_steps", "1"),
    *("--optim.dense.lr", "0.01", "--logging.tensorboard", "false"),
]


def scores(tmp_path, name, *options):
    losses(tmp_path, name, *options)
    summary = json.loads((tmp_path / name / "summary.json").read_text())
    return [summary["test"]["auc"], summary["test"]["log_loss"]]


def losses(tmp_path, name, *options):
    (outcome,) = run_command(["train", *SMALL, f"run.name={name}", f"run.dir={tmp_path}", *options])
    assert outcome.exit_code == 0, outcome.stderr
    lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if entry["kind"] == "train"]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "data_parallel"])
@pytest.mark.parametrize(
    "optimizer", ["{kind: sgd, lr: 0.1}", "{kind: adagrad, lr: 0.05}", "{kind: rowwise_adagrad, lr: 0.05}"]
)
def test_training_on_cuda_is_that_on_cpu(tmp_path, optimizer, sharding):
    options = [f"optim.sparse={optimizer}", f"sharding.types={sharding}", "optim.dense={kind: sgd, lr: 0.05}"]
    on_cpu = losses(tmp_path, "cpu", *options, "distributed.device=cpu")
    on_cuda = losses(tmp_path, "cuda", *options, "distributed.device=cuda", "sharding.kernels=fused,dense")
    assert on_cuda[0] == pytest.approx(on_cpu[0], rel=1e-5)
    assert on_cuda == pytest.approx(on_cpu, rel=1e-3)


def test_adam_trains_tables_on_cuda(tmp_path):
    curve = losses(tmp_path, "adam", "optim.sparse={kind: adam, lr: 0.01}", "distributed.device=cuda")
    assert sum(curve[-10:]) < 0.97 * sum(curve[:10])


@pytest.mark.parametrize("kernel", ["fused_uvm", "fused_uvm_caching"])
def test_averaged_weights_of_tables_in_host_memory_score_like_those_on_the_device(tmp_path, kernel):
    options = ["distributed.device=cuda", "sharding.types=table_wise", "train.average_decay=0.9"]
    on_device, on_host = (
        scores(tmp_path, name, *options, f"sharding.kernels={kind}") for name, kind in (("d", "fused"), ("h", kernel))
    )
    assert on_host == pytest.approx(on_device, rel=1e-4)


@pytest.mark.parametrize("kernel", ["fused_uvm", "fused_uvm_caching"])
def test_tables_in_host_memory_train_like_those_on_the_device(tmp_path, kernel):
    options = ["distributed.device=cuda", "sharding.types=table_wise"]
    on_device = losses(tmp_path, "device", *options, "sharding.kernels=fused")
    on_host = losses(tmp_path, "host", *options, f"sharding.kernels={kernel}")
    assert on_host == pytest.approx(on_device, rel=1e-4)


@pytest.mark.parametrize("option", ["precision.dense=bf16", "precision.tf32=true"])
def test_dense_parts_in_fewer_bits_train_like_those_in_float32(tmp_path, option):
    plain = losses(tmp_path, "plain", "distributed.device=cuda")
    found = losses(tmp_path, "fewer", "distributed.device=cuda", option)
    assert found[0] == pytest.approx(plain[0], rel=2**-6)  # two bits more than bfloat16 rounds by, for the layers
    assert sum(found[-10:]) == pytest.approx(sum(plain[-10:]), rel=0.02)
