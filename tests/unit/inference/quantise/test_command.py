"""``dlrm_main.py quantise`` from the command line: what it writes and says, and what it refuses in one line."""

import csv
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dlrm.command import arguments
from dlrm.config.quantise import QuantiseConfig
from dlrm.errors import ConfigError, ExportError
from dlrm.inference.exported.predictor import open_predictor
from dlrm.inference.features import Features
from dlrm.inference.quantise import job
from dlrm.inference.quantise.budget import Found
from dlrm.inference.quantise.job import run_quantise
from tests.support.command import run_command
from tests.support.exports import TINY, dataset_of, export, train

DATA = [option for option in TINY if option.startswith("--data.")]
QUICK = ["--timed_rows=64", "--timed_runs=2"]


def run(words: list[str]) -> None:
    """What the command does, in this process."""
    config = arguments.parse(["quantise", *map(str, words)]).config()
    assert isinstance(config, QuantiseConfig)
    run_quantise(config)


def test_tables_and_dense_part_become_int8_and_the_folder_answers(tiny_export, tmp_path):
    (outcome,) = run_command(
        ["quantise", str(tiny_export), f"--output={tmp_path / 'q'}", "--tables=int8", "--dense=int8"]
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert "tables 11.6 KiB -> 4.3 KiB (2.67 times smaller)" in outcome.stdout  # 4 * 8 bytes against 8 + 4
    manifest = open_predictor(tmp_path / "q").manifest
    assert {table.precision for table in manifest.tables} == {"int8"}
    assert manifest.dense_precision == "int8"


def test_a_mapping_names_tables_and_a_star_the_rest(tiny_export, tmp_path, capsys):
    run([tiny_export, f"--output={tmp_path / 'a'}", "--tables={cat_3: int4}"])
    run([tiny_export, f"--output={tmp_path / 'b'}", '--tables={cat_3: int4, "*": fp16}'])
    run([tiny_export, f"--output={tmp_path / 'c'}"])
    found = [[table.precision for table in open_predictor(tmp_path / name).manifest.tables] for name in "abc"]
    assert found[0] == ["fp32", "fp32", "fp32", "int4", "fp32"]
    assert found[1] == ["fp16", "fp16", "fp16", "int4", "fp16"]
    assert found[2] == ["int8"] * 5


def test_a_comparison_has_figures_of_scikit_learn_and_sizes_of_folders(tiny_run, tiny_export, tmp_path, capsys):
    some = ["--compare_tables=fp32,int4", "--compare_dense=fp32,bf16"]
    run([tiny_export, "--compare", *some, f"--results={tmp_path / 'r.json'}", *DATA, *QUICK])
    content = json.loads((tmp_path / "r.json").read_text())
    rows = {(row["tables"], row["dense"]): row for row in content["rows"]}
    assert list(rows) == [(t, d) for d in ("fp32", "bf16") for t in ("fp32", "int4")]
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("x fp32", "log loss", "int4", "2,048 test samples"))
    run([tiny_export, f"--output={tmp_path / 'q'}", "--tables=int4", "--dense=bf16"])
    import torch

    samples = dataset_of(tiny_run).test.read(torch.arange(2048))
    predictor = open_predictor(tmp_path / "q")
    logits = predictor.logits(Features.of(samples))[:, 0].double().numpy()
    labels = samples.labels_BT[:, 0].numpy()
    row = rows["int4", "bf16"]
    loss = log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert row["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-9)
    assert row["log_loss"] == pytest.approx(loss, abs=1e-9)
    assert row["normalised_entropy"] == pytest.approx(loss / log_loss(labels, np.full(2048, labels.mean())), abs=1e-6)
    assert row["log_loss_difference"] == pytest.approx(loss - rows["fp32", "fp32"]["log_loss"], abs=1e-9)
    assert row["file_bytes"] == sum(file.bytes for file in predictor.manifest.files)
    assert row["dense_bytes"] == (tmp_path / "q" / "dense.pt2").stat().st_size
    with (tmp_path / "r.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["log_loss"]) for line in lines] == [row["log_loss"] for row in content["rows"]]


def test_a_budget_writes_the_mix_that_it_reports(tiny_run, tiny_export, tmp_path, capsys):
    results = tmp_path / "r.json"
    run([tiny_export, "--budget=0.0002", f"--output={tmp_path / 'q'}", f"--results={results}", *DATA, *QUICK])
    content = json.loads(results.read_text())
    manifest = open_predictor(tmp_path / "q").manifest
    chosen = {f.name: t.precision for f, t in zip(manifest.sparse, manifest.tables, strict=True)}
    assert {name: table["chosen"] for name, table in content["budget"]["tables"].items()} == chosen
    assert content["budget"]["validation_log_loss_rise"] <= 0.0002
    assert content["budget"]["table_bytes"] == manifest.table_bytes
    assert len(content["rows"]) == 2
    assert content["rows"][1]["table_bytes"] == manifest.table_bytes
    assert "512 validation samples: log loss" in capsys.readouterr().out


def test_a_budget_that_no_mix_keeps_is_what_the_error_is_about(tiny_export, tmp_path, monkeypatch, capsys):
    def none_keeps_it(scorer, manifest, budget, *, tell):
        return Found(scorer.plain, 0.0, ({},) * len(manifest.tables))

    monkeypatch.setattr(job, "smallest_mix", none_keeps_it)
    with pytest.raises(ConfigError, match=r"budget: is 1e-09, and no mix of tables in fewer bits keeps it"):
        run([tiny_export, "--budget=1e-9", f"--output={tmp_path / 'q'}", *DATA, *QUICK])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_tables_of_32_columns_are_3_5_times_smaller_and_as_good_within_2e_4(tmp_path, capsys):
    """Bytes of a row: 4 * 32 against 32 + 4, 3.56 times. benchmarks/quantise.py has the same for a whole training."""
    run_folder = train(
        tmp_path / "run", "--model.embedding_dim=32", "--model.bottom_mlp=16,32", "--optim.sparse.lr=0.4"
    )
    export(run_folder, tmp_path / "e")
    results = tmp_path / "r.json"
    options = ["--compare_tables=int8", "--compare_dense=fp32", f"--results={results}", *QUICK]
    run([tmp_path / "e", "--compare", f"--data_from={run_folder / 'config.yaml'}", *options])
    plain, lowered = json.loads(results.read_text())["rows"]
    assert plain["table_bytes"] / lowered["table_bytes"] > 3.5
    assert abs(lowered["log_loss_difference"]) < 2e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tables={cat_33: int4, dog: int8}"], "tables.cat_33: is no table of the export; did you mean cat_3?"),
        (["--tables=int9"], "tables"),
        (["--tables=fp32"], "tables: leaves all tables and the dense part in fp32: nothing to do"),
        (["--tables={cat_0: fp32}"], "nothing to do"),
        (["--tables=int8", "--budget=0.1"], "tables and budget both say"),
        (["--results=a.txt", "--compare"], "must end with .json"),
    ],
)
def test_mistakes_are_said_with_what_was_meant(tiny_export, tmp_path, words, message):
    with pytest.raises(ConfigError) as caught:
        run([tiny_export, f"--output={tmp_path / 'q'}", *words])
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_data_of_another_schema_are_refused(tiny_export, tmp_path):
    with pytest.raises(ConfigError, match="data: has 13 dense columns, the export 4"):
        run([tiny_export, "--compare", "--data.kind=random"])
    other = [option.replace("40,7,", "40,8,") for option in DATA]
    with pytest.raises(ConfigError, match=r"has cat_1 \(8 rows, 1 ids\) where the export has cat_1 \(7 rows, 1 ids\)"):
        run([tiny_export, "--compare", *other])


def test_an_export_is_not_replaced_by_its_own_smaller_one(tiny_export, tmp_path):
    whole = shutil.copytree(tiny_export, tmp_path / "whole")
    (tmp_path / "link").symlink_to(tmp_path)
    before = (whole / "manifest.json").read_bytes()
    for given, output in ((whole, whole), (tmp_path / "link" / "whole", whole), (whole, tmp_path / "link" / "whole")):
        with pytest.raises(ExportError, match="is the export that is quantised"):
            run([given, f"--output={output}", "--overwrite=true"])
    assert (whole / "manifest.json").read_bytes() == before


def test_what_is_there_is_left_and_a_quantised_export_refused(tiny_export, tmp_path):
    run([tiny_export, f"--output={tmp_path / 'q'}"])
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "q").iterdir())
    with pytest.raises(ExportError, match="is there already"):
        run([tiny_export, f"--output={tmp_path / 'q'}"])
    with pytest.raises(ExportError, match=r"is quantised already \(tables int8; dense fp32\)"):
        run([tmp_path / "q", f"--output={tmp_path / 'r'}"])
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "q").iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


def test_errors_leave_with_2_and_one_line(tiny_run, tiny_export, tmp_path):
    shutil.copytree(tiny_export, tmp_path / "e")
    file = tmp_path / "e" / "dense.pt2"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    for path, message in ((tiny_run, "is no export"), (tmp_path / "e", "its bytes are not those that were written")):
        (outcome,) = run_command(["quantise", str(path), f"--output={tmp_path / 'q'}"])
        assert outcome.exit_code == 2
        assert outcome.stderr.count("\n") == 1
        assert message in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_an_interrupt_leaves_nothing(tiny_export, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "write_tables", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([tiny_export, f"--output={tmp_path / 'q'}"])
    assert list(tmp_path.iterdir()) == []
