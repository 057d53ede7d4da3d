"""The command benchmark: what a person sees, what it leaves behind, and what it refuses."""

import gzip
import json

import pytest

from dlrm.scaling.benchmark.trace import TRACK
from tests.support.command import run_command

SMALL = [
    *("--data.train_samples", "4000", "--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8"),
    *("--model.embedding_dim", "8", "--model.top_mlp", "16,1", "--train.global_batch_size", "256"),
    *("--optim.dense.lr", "0.01", "--steps", "3", "--warmup_steps", "1", "--profiled_steps", "3"),
]


@pytest.mark.parametrize("world_size", [1, 2])
def test_it_shows_where_the_time_goes_and_leaves_json_a_picture_and_traces(tmp_path, world_size):
    outcomes = run_command(["benchmark", *SMALL, "--run.dir", str(tmp_path), "--profile"], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    assert all(outcome.stdout == "" for outcome in outcomes[1:])  # only rank 0 speaks
    for part in ("samples/s", "floors of a step", "bottom_mlp backward", "table update", "all-reduce", "step"):
        assert part in outcomes[0].stdout
    (folder,) = tmp_path.iterdir()
    assert folder.name == "run.benchmark"
    traces = {f"trace_rank{rank}.json.gz" for rank in range(world_size)}
    assert {path.name for path in folder.iterdir()} == {
        "benchmark.json",
        "breakdown.png",
        "benchmark.yaml",
        "log",
        *traces,
    }
    found = json.loads((folder / "benchmark.json").read_text())
    assert (found["ranks"], found["global_batch_size"], found["steps"], found["without"]) == (world_size, 256, 3, [])
    assert found["samples_per_s"] > 0
    assert found["memory"]["expected_host_gib"] == pytest.approx(found["memory"]["host_gib"], rel=0.2)
    assert "memory of the rank that takes most: host " in outcomes[0].stdout
    assert found["work"]["exchanged_bytes"] == pytest.approx(4 * (2 * 8 * 4 + 4 + 4) * (world_size - 1) / world_size)

    with gzip.open(folder / "trace_rank0.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = {event.get("name") for event in events}
    assert names >= {"dlrm: bottom_mlp", "dlrm: top_mlp", "dlrm: loss", "dlrm: hooks", "aten::addmm"}
    assert any(event.get("args", {}).get("name") == TRACK for event in events)
    stages = {event["name"] for event in events if event.get("cat") == "stage"}
    assert stages >= {"data wait", "lookup", "top_mlp", "top_mlp backward", "table update", "optimizer"}


def test_what_is_left_out_is_said_and_an_earlier_result_replaced(tmp_path):
    for parts in (["lookups", "mlps"], ["data"]):
        words = ["benchmark", *SMALL, "--output", str(tmp_path / "out"), "--without", ",".join(parts)]
        (outcome,) = run_command(words)
        assert outcome.exit_code == 0, outcome.stderr
        assert f"run without {', '.join(parts)}: " in outcome.stdout
        assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["without"] == parts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--without", "lookup"], "without[0]: is 'lookup', must be one of lookups"),
        (["--steps", "0"], "steps: "),
        (["--stepps", "4"], "did you mean steps?"),
        (
            ["--model", "{kind: deepfm}", "--without", "interaction"],
            "without: interaction: DeepFM has no module for it",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, said):
    small = SMALL if "--model" not in words else ["--data.train_samples", "4000"]
    (outcome,) = run_command(["benchmark", *small, "--run.dir", str(tmp_path), *words])
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert outcome.stdout == ""


def test_the_folder_of_a_run_is_not_touched(tmp_path):
    (tmp_path / "run.json").write_text('{"format": "dlrm-run", "version": 1}\n')
    (outcome,) = run_command(["benchmark", *SMALL, "--output", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "is the folder of a run: name another" in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
