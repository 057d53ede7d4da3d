"""`calibrate`: what a person sees, what it leaves behind, what it refuses; and `plan` with what it leaves."""

import json

import pytest

from dlrm.scaling.cost.calibration import Calibration, Entry
from dlrm.scaling.cost.rates import Link
from tests.support.command import run_command
from tests.unit.scaling.cost.machines import COLLECTIVES, rates

TINY = ["--rows", "100", "--bags", "8"]
SMALL = [
    *("--data.train_samples", "4000", "--data.rows", "100,50,20,300", "--model.bottom_mlp", "16,8"),
    *("--model.embedding_dim", "8", "--model.top_mlp", "16,1", "--train.global_batch_size", "256"),
]


def known(ranks):
    """An entry as a machine with so many cores has it."""
    links = {name: Link(1e-4, 1e9) for name in COLLECTIVES} if ranks > 1 else {}
    own = rates(
        cores=64.0, flops_per_s={"float32": 1e10}, stream_bytes_per_s=1e9, cached_bytes_per_s=1e10, cache_bytes=1e6,
        operation_s=1e-5, lookup_s=(1e-5, 1e-8, 1e-8, 1e-10), update_s=(1e-5, 1e-8, 1e-8, 1e-10), step_s=1e-3,
    )  # fmt: skip
    return Entry(ranks, ranks, own, links)


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_measures_adds_to_what_is_known_and_plan_has_times_of_it(tmp_path, world_size):
    path = tmp_path / "calibration.json"
    other = known(16)
    Calibration("CPU", (other, known(world_size)), {"products": 1.25}, 0.5).write(path)
    outcomes = run_command(["calibrate", str(path), *TINY], world_size)
    assert [outcome.exit_code for outcome in outcomes] == [0] * world_size, outcomes[0].stderr
    assert all(outcome.stdout == "" for outcome in outcomes[1:])
    for said in (
        f"{world_size} rank(s), {world_size} on a host",
        f"{path} has calibrations of {world_size}, 16 rank(s)",
    ):
        assert said in outcomes[0].stdout
    found = Calibration.read(path)
    assert [entry.ranks for entry in found.entries] == [world_size, 16]
    assert found.entries[1] == other
    assert found.entries[0] != known(world_size)
    assert bool(found.entries[0].links) == (world_size > 1)
    assert (found.factors, found.spread) == ({"products": 1.25}, 0.5)
    assert found.environment
    assert [one.name for one in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("{", "output: is no calibration"),
        ('{"format": "dlrm-plan"}', "output: is no calibration of version"),
        (Calibration("NVIDIA H100", ()), "is of NVIDIA H100, this is CPU: name another file"),
    ],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_file_that_is_not_this_machine_s_is_left_alone(tmp_path, file, said, world_size):
    path = tmp_path / "calibration.json"
    file.write(path) if isinstance(file, Calibration) else path.write_text(file)
    before = path.read_bytes()
    outcomes = run_command(["calibrate", str(path), *TINY], world_size)
    assert outcomes[0].exit_code == 2
    assert one_line(outcomes[0]).count(said) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["nowhere/calibration.json", ".", "x" * 300])
def test_what_cannot_be_written_is_known_before_anything_is_measured(tmp_path, place):
    outcomes = run_command(["calibrate", str(tmp_path / place), *TINY], 2)
    assert outcomes[0].exit_code == 2
    assert "output: " in one_line(outcomes[0])
    assert list(tmp_path.iterdir()) == []


def one_line(outcome):
    assert outcome.stdout == ""
    (line,) = outcome.stderr.strip().splitlines()
    return line


# By measured steps.


def benchmark(folder, step_ms, *words):
    """A result with another time, of a benchmark that is made once."""
    folder.mkdir(parents=True)
    made = folder.parent / "made"
    if not made.exists():
        few = ["--optim.dense.lr", "0.01", "--steps", "2", "--warmup_steps", "1", "--profiled_steps", "1"]
        (outcome,) = run_command(["benchmark", *SMALL, *few, *words, "--output", str(made)])
        assert outcome.exit_code == 0, outcome.stderr
    told = json.loads((made / "benchmark.json").read_text())
    told["step"]["median_ms"] = step_ms
    (folder / "benchmark.json").write_text(json.dumps(told))
    (folder / "benchmark.yaml").write_text((made / "benchmark.yaml").read_text())


def planned_ms(path, folder):
    (outcome,) = run_command(["plan", *SMALL, "--machine", str(path), "--output", str(folder)])
    assert outcome.exit_code == 0, outcome.stderr
    return 1e3 * json.loads((folder / "plan.json").read_text())["step_s"]


def test_measured_steps_correct_it_and_the_plan_says_what_they_took(tmp_path):
    path, results = tmp_path / "calibration.json", tmp_path / "results"
    Calibration("CPU", (known(1),)).write(path)
    before_ms = planned_ms(path, tmp_path / "plan")
    for repeat, times in enumerate((1.2, 1.5, 1e6)):  # the median counts
        benchmark(results / f"{repeat}", times * before_ms)
    (results / "made" / "benchmark.json").unlink()
    (outcome,) = run_command(["calibrate", str(path), "--steps", str(results)])
    assert outcome.exit_code == 0, outcome.stderr
    assert f"{path}: corrected by 1 measured steps, of which it is " in outcome.stdout
    found = Calibration.read(path)
    assert found.entries == (known(1),)
    assert 1.2 < max(found.factors.values()) < 2
    assert planned_ms(path, tmp_path / "plan") == pytest.approx(1.5 * before_ms, rel=0.1)


def test_steps_of_which_there_are_none_or_that_cannot_be_read_are_told_in_a_line(tmp_path):
    path = tmp_path / "calibration.json"
    Calibration("CPU", (known(1),)).write(path)
    before = path.read_bytes()
    results = tmp_path / "results"
    for text, said in (
        (None, "holds no results of benchmarks"),
        ("{", "is no result of a benchmark (JSONDecodeError"),
        ("[]", "is no result of a benchmark (TypeError"),
        ('{"format": "dlrm-benchmark"}', "is no result of a benchmark (KeyError"),
        (
            '{"format": "dlrm-benchmark", "without": [], "device": "cuda", "environment": {"devices": ["H100"]}}',
            "on CPU",
        ),
        ('{"format": "dlrm-benchmark", "without": [], "device": "cpu"}', "benchmark.yaml"),
    ):
        if text is not None:
            results.mkdir(exist_ok=True)
            (results / "benchmark.json").write_text(text)
        (outcome,) = run_command(["calibrate", str(path), "--steps", str(results)])
        assert outcome.exit_code == 2
        assert said in one_line(outcome)
    assert path.read_bytes() == before


def test_steps_are_looked_at_by_one_process(tmp_path):
    outcomes = run_command(["calibrate", str(tmp_path / "c.json"), "--steps", str(tmp_path)], 2)
    assert outcomes[0].exit_code == 2
    assert "steps: are looked at by one process; leave the launcher out" in outcomes[0].stderr
