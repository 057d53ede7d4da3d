"""Whatever a column is called: it is trained, saved, resumed, exported and reported, and its name does no harm."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import yaml

from dlrm.config.dialect import Dumper
from dlrm.errors import USER_ERROR_EXIT_CODE
from dlrm.models.init import fill_table_block
from dlrm.table_names import table_name
from tests.support.command import run_command
from tests.unit.column_names import COLUMN_NAMES, FOR_SCREENS

ROWS, DIM, SAMPLES = 8, 4, 64
LABEL, DENSE = "la\x1bbel", ["<b>dense</b>\n", "forward"]
NEEDED = [*FOR_SCREENS, "type", "training", "kind", "user.id", "a.b", "<<"]
# Half of the names, which is quicker; tests/unit/test_table_names.py has all of them.
SPARSE = [name for i, name in enumerate(COLUMN_NAMES) if (i % 2 or name in NEEDED) and name not in DENSE]


def used_row(table: int) -> int:
    """The row that samples touch beside row 0: not the same in all tables."""
    return 1 + table % (ROWS - 2)


def write_data(folder: Path) -> Path:
    random = np.random.default_rng(0)
    columns = {LABEL: random.integers(0, 2, SAMPLES)} | {name: random.normal(size=SAMPLES) for name in DENSE}
    columns |= {name: random.integers(0, 2, SAMPLES) * used_row(i) for i, name in enumerate(SPARSE)}
    pq.write_table(pa.table(columns), folder / "train.parquet")
    pq.write_table(pa.table(columns), folder / "val.parquet")
    return folder


def write_options(folder: Path) -> Path:
    options = {
        "run": {"dir": str(folder / "runs")},
        "data": {
            "kind": "parquet",
            "path": str(folder),
            "label": LABEL,
            "dense": DENSE,
            "sparse": SPARSE,
            "rows": [ROWS],
        },
        "model": {
            "embedding_dim": DIM,
            "bottom_mlp": [DIM],
            "top_mlp": [4, 1],
            "tables": {"user.id": {"pooling": "mean"}, "kind": {"pooling": "mean"}, "<<": {"pooling": "mean"}},
        },
        "sharding": {"tables": {"type": {"types": ["data_parallel"]}, "user.id": {"types": ["row_wise"]}}},
        "optim": {"lr_scale": {"training": 1e-30, "kind": 0.5, "a.b": 1e-30}},
        "train": {"global_batch_size": 8, "max_steps": 4, "average_decay": 0.5},
        "checkpoint": {"every_steps": 2, "full_every": 2, "keep": 4, "every_minutes": None},
    }
    path = folder / "options.yaml"
    path.write_text(yaml.dump(options, Dumper=Dumper, allow_unicode=True))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was trained for four steps and saved after two and four, and what it printed."""
    folder = tmp_path_factory.mktemp("names")
    outcome = run_command(["train", "--config", str(write_options(write_data(folder))), "--run.name", "a"])[0]
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    return folder / "runs" / "a", outcome.stdout


def exported(checkpoint: Path, folder: Path) -> dict[str, torch.Tensor]:
    path = folder / f"{checkpoint.parents[1].name}.safetensors"
    outcome = run_command(["checkpoint", "export", str(checkpoint), str(path), "--optimizer"])[0]
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    return safetensors.torch.load_file(path)


def test_each_table_is_saved_under_its_name_and_trained_by_its_column(run, tmp_path):
    state = exported(run[0] / "checkpoints" / "step_00000004", tmp_path)
    tables = {
        table_name(name.removeprefix("tables.").removesuffix(".weight")): weight
        for name, weight in state.items()
        if name.startswith("tables.") and name.endswith(".weight")
    }
    assert set(tables) == set(SPARSE)
    assert torch.equal(tables["user.id"], state["tables.user.id.weight"])
    for i, name in enumerate(SPARSE):
        initial_RD = torch.empty(ROWS, DIM)
        fill_table_block(initial_RD, 0, name, rows=ROWS, dim=DIM, row_start=0, col_start=0)
        changed = (tables[name] != initial_RD).any(dim=1).nonzero().flatten().tolist()
        assert changed == ([] if name in ("training", "a.b") else [0, used_row(i)])


def test_a_run_that_goes_on_comes_to_the_same_state(run, tmp_path):
    folder = run[0]
    words = ["--run.name", "b", "--resume.checkpoint", str(folder / "checkpoints" / "step_00000002")]
    outcome = run_command(["train", "--config", str(folder / "config.yaml"), *words])[0]
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "left as it was" not in outcome.stdout
    ends = [exported(folder.parent / name / "checkpoints" / "step_00000004", tmp_path) for name in "ab"]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_nothing_of_a_name_reaches_terminal_files_or_report_as_it_is(run):
    folder, printed = run
    report = (folder / "report.html").read_text()
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert" in report
    assert "<b>dense" not in report
    shown = run_command(["checkpoint", "show", str(folder)])[0]
    assert "<script>" in shown.stdout
    assert "[bold]x[/bold]" in shown.stdout
    for text in (
        printed,
        shown.stdout,
        report,
        (folder / "plan.txt").read_text(),
        (folder / "config.yaml").read_text(),
        (folder / "log" / "rank0.log").read_text().replace("\t", ""),
    ):
        assert not [line for line in re.split("\n", text) if not line.isprintable()]
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert all(re.fullmatch(r"[\w./-]+", name) for name in names)
    assert "[bold]x[/bold]" in printed
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())


def test_an_error_quotes_a_name_in_one_harmless_line(tmp_path):
    name = "\x1b[31m[bold]two\nlines\u202e"
    pq.write_table(pa.table({"label": [0, 1], name: [0, 1]}), tmp_path / "train.parquet")
    data = {"kind": "parquet", "path": str(tmp_path), "dense": [], "sparse": [name], "rows": [1]}
    (tmp_path / "options.yaml").write_text(yaml.dump({"data": data, "model": {"interaction": {"kind": "cat"}}}))
    words = ["train", "--config", str(tmp_path / "options.yaml"), "--run.dir", str(tmp_path)]
    outcome = run_command(words)[0]
    assert outcome.exit_code == USER_ERROR_EXIT_CODE
    assert all(line.isprintable() for line in (outcome.stdout + outcome.stderr).split("\n"))
    assert outcome.stderr.count("\n") == 1
    assert "column \\x1b[31m[bold]two\\nlines\\u202e: id 1 is outside of its table" in outcome.stderr
