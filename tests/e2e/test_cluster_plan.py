"""`plan` of clusters that are not there: times, comparisons, costs, and what it asks for."""

import json

import pytest

from dlrm.scaling.cost.calibration import Calibration
from tests.e2e.test_calibrate import SMALL, known, one_line
from tests.support.command import run_command

H100 = "NVIDIA H100 80GB HBM3"
OF_STEP = {
    "speed", "step_s", "step_s_band", "samples_per_s", "stages_s", "hidden_s", "work_s_by_rank", "limiting_rank",
    "limiting_stage", "bytes_by_collective",
}  # fmt: skip


def plan(folder, *words):
    (outcome,) = run_command(["plan", *SMALL, "--output", str(folder), *words])
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout, json.loads((folder / "plan.json").read_text())


def check(found):
    """What holds of every forecast with times."""
    assert found.keys() >= OF_STEP
    assert sum(found["stages_s"].values()) == pytest.approx(found["step_s"])
    assert all(seconds >= 0 for seconds in (*found["stages_s"].values(), *found["hidden_s"].values()))
    assert len(found["work_s_by_rank"]) == len(found["expected"]) == found["ranks"]
    assert found["work_s_by_rank"][found["limiting_rank"]] == max(found["work_s_by_rank"])
    assert found["stages_s"][found["limiting_stage"]] == max(found["stages_s"].values())
    assert found["samples_per_s"] == pytest.approx(found["global_batch_size"] / found["step_s"])
    low, high = found["step_s_band"]
    assert low < found["step_s"] < high
    assert low * high == pytest.approx(found["step_s"] ** 2)


def test_a_cluster_of_the_catalogue_with_comparisons_a_curve_and_what_an_epoch_costs(tmp_path):
    words = ["--cluster", "2x8", "--device", H100, "--curve", "8,32,12", "--compare", "row_wise,table_wise"]
    shown, found = plan(tmp_path, *words, "--usd_per_device_hour", "2.5")
    assert (found["format"], found["version"]) == ("dlrm-plan", 1)
    check(found)
    row_wise, table_wise, copies = found["strategies"]
    assert [row_wise["strategy"], table_wise["strategy"]] == ["row_wise", "table_wise"]
    assert copies["strategy"].startswith("a copy on each host")
    for one in found["strategies"]:
        assert one["reason"] == ""
        check(one)
    eight, more, none = found["curve"]
    check(eight)
    check(more)
    assert [(one["ranks"], one["ranks_per_host"], one["global_batch_size"]) for one in (eight, more)] == [
        (8, 8, 128),
        (32, 8, 512),
    ]
    assert none["reason"] == "12 devices do not divide into hosts of 8"
    assert "step_s" not in none
    epoch = found["epoch"]
    assert epoch["samples"] == 4000
    assert epoch["hours"] == pytest.approx(4000 / found["samples_per_s"] / 3600)
    assert epoch["device_hours"] == pytest.approx(16 * epoch["hours"])
    assert epoch["usd"] == pytest.approx(2.5 * epoch["device_hours"])
    for said in (
        "Other sharding types",
        "Other numbers of devices",
        "at 2.50 a device-hour (as given)",
        "a rank sends",
    ):
        assert said in shown


def test_a_way_to_shard_that_does_not_fit_has_its_reason(tmp_path):
    words = ["--cluster", "2x8", "--device", H100, "--data.kind", "random", "--data.rows", "1000000000,100"]
    words += ["--model.embedding_dim", "64", "--model.bottom_mlp", "16,64"]
    _, found = plan(
        tmp_path,
        *words,
        "--sharding.kernels",
        "fused",
        "--sharding.types",
        "row_wise",
        "--compare",
        "table_wise,row_wise",
    )
    table_wise, row_wise, *_ = found["strategies"]
    assert table_wise["reason"]
    assert "\n" not in table_wise["reason"]
    assert "step_s" not in table_wise
    check(row_wise)
    assert any("more than a device has" in line for line in found["cautions"])


def test_a_device_without_a_price_has_no_cost(tmp_path):
    _, found = plan(tmp_path, "--cluster", "1x4", "--device", "GB300", "--compare", "table_wise")
    assert (found["epoch"]["usd"], found["epoch"]["usd_per_device_hour"]) == (None, None)
    assert found["epoch"]["device_hours"] == pytest.approx(4 * found["epoch"]["hours"])


def test_cpus_that_were_calibrated_and_some_that_were_not(tmp_path):
    path = tmp_path / "calibration.json"
    Calibration("CPU", (known(1), known(2)), {}, 0.1).write(path)
    words = ["--cluster", "2x2", "--compare", "table_wise"]
    shown, found = plan(tmp_path / "known", *words, "--machine", str(path))
    check(found)
    assert (found["ranks"], found["ranks_per_host"], found["speed"]) == (4, 2, "calibrated: CPU")
    assert found["epoch"]["usd"] is None
    shown, found = plan(tmp_path / "unknown", *words)
    assert "nothing is known of this machine's speed" in shown
    assert not OF_STEP & found.keys()
    assert found["epoch"] is None
    assert len(found["expected"]) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", H100, "--network", "infiniband_ndx"], "network: 'infiniband_ndx' is not in the catalogue"),
        (["--device", "NVIDIA H200 NVL"], "network: is needed: H200 NVL comes without one; say one of"),
        (["--machine", "nowhere.json"], "machine: cannot be read (No such file or directory)"),
    ],
)
def test_what_is_missing_is_asked_for_in_a_line(tmp_path, words, said):
    (outcome,) = run_command(["plan", *SMALL, "--run.dir", str(tmp_path), "--cluster", "2x4", *words])
    assert outcome.exit_code == 2
    assert said in one_line(outcome)
    if "infiniband_ndx" in words:
        assert "infiniband_ndr" in outcome.stderr


def test_a_plan_of_more_ranks_than_a_machine_without_collectives_was_measured_for(tmp_path):
    path = tmp_path / "calibration.json"
    Calibration("CPU", (known(1),)).write(path)
    words = ["--run.dir", str(tmp_path), "--cluster", "1x2", "--machine", str(path)]
    (outcome,) = run_command(["plan", *SMALL, *words])
    assert outcome.exit_code == 2
    assert "machine: has no collectives: run calibrate on two ranks, too" in one_line(outcome)
