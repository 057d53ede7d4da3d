"""From the file of an experiment to its points, and every mistake before the first of them runs."""

import re
from pathlib import Path

import pytest

from dlrm.config import dump_config, load_options
from dlrm.config.benchmark import BenchmarkConfig
from dlrm.config.experiment import Experiment
from dlrm.errors import ConfigError
from dlrm.scaling.experiments.matrix import points_of, read_experiment, selected

FILES = sorted((Path(__file__).resolve().parents[3] / "configs/experiments").iterdir())


def written(folder, text):
    path = folder / "experiment.yaml"
    path.write_text(f"name: small\n{text}\n")
    return str(path)


def points(folder, text):
    path = written(folder, text)
    return points_of(read_experiment(path), path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_experiment_in_configs_has_points_and_is_printed_back_equal(path, tmp_path):
    experiment = read_experiment(str(path))
    assert experiment.name == path.stem
    assert experiment.description
    found = points_of(experiment, str(path))
    assert len(found) >= 3
    assert len({point.name for point in found}) == len(found)
    (tmp_path / "printed.yaml").write_text(dump_config(experiment))
    assert load_options(Experiment, tmp_path / "printed.yaml") == experiment


def test_a_point_is_one_level_of_each_factor_and_its_configuration_has_all_its_options(tmp_path):
    found = points(
        tmp_path,
        """
options: {model.bottom_mlp: [32, 16], train: {pipeline: base}, steps: 7}
hosts: [1, 2]
ranks_per_host: [2, 4]
vary:
  sharding:
    - {label: row-wise, options: {sharding.types: row_wise}}
    - {label: tables, options: {sharding: {types: table_wise, tables: {cat_0: {types: row_wise}}}}}
  train.global_batch_size: [64, 128]
""",
    )
    assert len(found) == 2 * 2 * 2 * 2
    assert [point.name for point in found[:3]] == [
        "1x2.row-wise.global_batch_size-64", "1x2.row-wise.global_batch_size-128", "1x2.tables.global_batch_size-64",
    ]  # fmt: skip
    last = found[-1]
    assert (last.hosts, last.ranks_per_host, last.ranks, last.global_batch_size) == (2, 4, 8, 128)
    assert last.factors == {"sharding": "tables", "train.global_batch_size": 128}
    assert last.config.sharding.types == ("table_wise",)
    assert last.config.sharding.tables["cat_0"].types == ("row_wise",)
    assert (last.config.train.pipeline, last.config.steps, last.config.model.bottom_mlp) == ("base", 7, (32, 16))
    assert found[0].config.sharding.tables == {}


def test_the_base_is_found_beside_the_file_and_what_varies_lies_over_it(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {embedding_dim: 8, bottom_mlp: [8]}\ntrain: {global_batch_size: 40}\n")
    (point,) = points(tmp_path, "base: base.yaml\noptions: {train.epochs: 3}")
    assert (point.config.model.embedding_dim, point.config.train.epochs, point.global_batch_size) == (8, 3, 40)


def test_weak_batches_grow_with_the_ranks_and_strong_ones_do_not(tmp_path):
    weak = points(tmp_path, "batch: weak\nsamples_per_rank: 32\nranks: [1, 2, 8, 16]\nranks_per_host: 8")
    assert [(point.name, point.global_batch_size) for point in weak] == [
        ("1x1", 32), ("1x2", 64), ("1x8", 256), ("2x8", 512),
    ]  # fmt: skip
    strong = points(tmp_path, "ranks: [1, 2, 6]\noptions: {train.global_batch_size: 96}")
    assert [(point.name, point.global_batch_size) for point in strong] == [("1x1", 96), ("1x2", 96), ("1x6", 96)]
    sweep = points(tmp_path, "batch: weak\nsamples_per_rank: [8, 16]\nranks: 2")
    assert [(point.factors["samples_per_rank"], point.global_batch_size) for point in sweep] == [(8, 16), (16, 32)]


def test_points_are_left_out_and_added(tmp_path):
    found = points(
        tmp_path,
        """
ranks: [1, 2]
vary:
  data.click_rate: [0.1, 0.2]
  sharding: [{label: rows, options: {sharding.types: row_wise}}, {label: tables, options: {sharding.types: table_wise}}]
exclude:
  - {ranks: 1, sharding: tables}
  - {data.click_rate: [0.1, 0.3], ranks: 2}
include:
  - {ranks: 4, sharding: rows}
  - {data.click_rate: 0.5, ranks: 3}
""",
    )
    assert [point.name for point in found] == [
        "1x1.click_rate-0.1.rows", "1x1.click_rate-0.2.rows", "1x2.click_rate-0.2.rows", "1x2.click_rate-0.2.tables",
        "1x4.rows", "1x3.click_rate-0.5",
    ]  # fmt: skip
    assert found[-2].config.sharding.types == ("row_wise",)
    assert (found[-2].factors, found[-1].factors) == ({"sharding": "rows"}, {"data.click_rate": 0.5})
    assert found[-1].config.data.click_rate == 0.5


def test_values_too_long_for_a_name_are_numbered(tmp_path):
    lists = "[[100, 200, 300, 400, 500, 600, 700], [7, 200, 300, 400, 500, 600, 700]]"
    found = points(tmp_path, f"options: {{data.kind: random}}\nvary: {{data.rows: {lists}}}")
    assert [point.name for point in found] == ["1x1.rows-no1", "1x1.rows-no2"]
    assert found[1].factors == {"data.rows": "[7, 200, 300, 400, 500, 600, 700]"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ranks_per_hosts: 2", "ranks_per_hosts: unknown option; did you mean ranks_per_host?"),
        ("options: {train.global_batch: 2}", "point 1x1: train.global_batch: unknown option; did you mean train.glob"),
        ("vary: {sharding.typs: [row_wise, table_wise]}", "did you mean sharding.types?"),
        (
            "vary: {train.accumulation_steps: [1, 3]}",
            "point 1x1.accumulation_steps-3: train: global_batch_size is 2048",
        ),
        ("vary: {model.embedding_dim: 16}", "vary.model.embedding_dim: must be a list of its levels"),
        ("vary: {model.embedding_dim: [16, 16]}", "has the level embedding_dim-16 twice"),
        ("vary: {a: [{label: x, options: {steps: 2}}], steps: [3]}", "vary.steps: sets steps, which a sets, too"),
        ("vary: {ranks: [1, 2]}", "vary.ranks: stands beside vary, not in it: ranks: [...]"),
        ("vary: {part: [{label: x}]}", "vary.part: is a column of every table"),
        ("options: {output: x}", "options.output: is set by scale"),
        ("options: {run: {name: x}}", "options.run.name: is set by scale"),
        ("batch: weak", "batch is weak: say samples_per_rank"),
        ("samples_per_rank: 2", "samples_per_rank is for batch: weak"),
        ("batch: weak\nsamples_per_rank: 2\noptions: {train.global_batch_size: 4}", "is samples_per_rank times ranks"),
        ("hosts: 2\nranks: 4", "give hosts or ranks, not both"),
        ("ranks: [4, 12]\nranks_per_host: 8", "12 ranks do not fill hosts of 8"),
        ("exclude: [{rank: 1}]", "exclude[0]: rank is no factor; did you mean ranks?"),
        ("exclude: [{ranks: 2}]", "exclude[0]: fits no point: ranks 2"),
        ("exclude: [{ranks: 1}]", "exclude: leaves no point"),
        ("exclude: {ranks: 1}", "exclude: must be a list of mappings"),
        ("include: [{ranks: 0}]", "include[0]: 1 hosts of 0 ranks are no job"),
        ("include: [{ranks: 1}]", "point 1x1: is there twice"),
        ("vary: {a: [{label: x, options: {}}]}\ninclude: [{a: y}]", "include[0]: a has no level y; x: a y"),
        ("vary: {a: [{label: x, options: {}}, {label: y, options: {}}]}", "point 1x1.y: is the same as point 1x1.x"),
        ("base: nowhere.yaml", "nowhere.yaml is no file; it is looked for beside the experiment's file"),
        ("repeats: 0", "repeats: "),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        points(tmp_path, text)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_same_mistake_of_many_points_is_told_once_and_all_mistakes_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        points(tmp_path, "ranks: [1, 2, 3, 4, 5]\noptions: {train.epochs: 0, steps: 0}")
    first, second = caught.value.problems
    assert {first.key, second.key} == {"train.epochs", "steps"}
    assert first.origin.endswith("points 1x1, 1x2, 1x3 and 2 others")


def test_points_are_chosen_by_their_names(tmp_path):
    found = points(tmp_path, "ranks: [1, 2, 4]\nvary: {steps: [5, 10]}")
    chosen = selected(found, ("1x2*", "*.steps-10"))
    assert [point.name for point in chosen] == ["1x1.steps-10", "1x2.steps-5", "1x2.steps-10", "1x4.steps-10"]
    assert selected(found, ()) == found
    with pytest.raises(ConfigError, match=r"only: 1x2\.step-5 is the name of no point; did you mean 1x2\.steps-5"):
        selected(found, ("1x2.step-5",))


def test_the_file_in_the_documentation_is_one(tmp_path):
    page = (FILES[0].parents[2] / "docs/scaling.md").read_text()
    text = re.search(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "shown.yaml").write_text(text.replace("base: ..", f"base: {FILES[0].parents[1]}"))
    found = points_of(read_experiment(str(tmp_path / "shown.yaml")), "shown.yaml")
    assert "2x8.pipeline-sparse_dist.row-wise" in [point.name for point in found]
    assert [point.name for point in found if point.ranks == 32] == ["4x8.row-wise"]


def test_a_point_is_the_configuration_that_the_command_benchmark_would_read(tmp_path):
    (point,) = points(tmp_path, "options: {data: {kind: random, rows: [5, 6]}, data.hotness: 3}")
    words = ["--data.kind=random", "--data.rows=5,6", "--data.hotness=3", "--run.name=small"]
    assert point.config == load_options(BenchmarkConfig, None, words)
