"""`plan`: what a training takes, of ranks that are there and of clusters that are not."""

import json

import pytest

from tests.support.command import run_command

SMALL = [
    *("--data.train_samples", "4000", "--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8"),
    *("--model.embedding_dim", "8", "--model.top_mlp", "16,1", "--train.global_batch_size", "256"),
]


@pytest.mark.parametrize("world_size", [1, 2])
def test_memory_is_predicted_without_training_and_an_earlier_benchmark_stays(tmp_path, world_size):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "benchmark.json").write_text("{}")
    words = ["plan", *SMALL, "--output", str(folder), "--data.rows", "1000,50,20,300"]
    outcomes = run_command(words, world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    assert all(outcome.stdout == "" for outcome in outcomes[1:])
    for said in ("Sharding plan", "process and libraries", "takes most", "neither saves nor scores"):
        assert said in outcomes[0].stdout
    assert {path.name for path in folder.iterdir()} == {"benchmark.json", "plan.json", "plan.yaml", "log"}
    found = json.loads((folder / "plan.json").read_text())
    assert (found["ranks"], found["started"], found["device"], found["missing"]) == (world_size, True, "cpu", "")
    assert len(found["expected"]) == world_size
    tables = sum(account["parts"].get("tables", {"host": 0})["host"] for account in found["expected"])
    assert tables >= 1370 * 8 * 4


def test_memory_is_predicted_of_gpus_that_are_not_there_and_tables_larger_than_this_host(tmp_path):
    words = ["plan", *SMALL, "--output", str(tmp_path / "out"), "--cluster", "2x8"]
    words += ["--data.kind", "random", "--data.rows", ",".join(["800000000"] * 16), "--sharding.types", "table_wise"]
    (outcome,) = run_command([*words, "--device", "NVIDIA H100 80GB HBM3"])
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (found["ranks"], found["ranks_per_host"], found["started"], found["device"]) == (16, 8, False, "cuda")
    assert [account["parts"]["tables"]["device"] for account in found["expected"]] == [800_000_000 * 8 * 4] * 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "H100"], "set cluster, too"),
        (["--cluster", "9"], "cluster: must be HOSTSxDEVICES, such as 16x8"),
        (["--cluster", "1x2", "--device", "Voodoo"], "nothing is known of the device 'Voodoo'; known"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, said):
    (outcome,) = run_command(["plan", *SMALL, "--run.dir", str(tmp_path), *words])
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert outcome.stdout == ""
