import json
import re
from pathlib import Path

import numpy as np
import pytest

from dlrm.config.prepare import InspectConfig
from dlrm.data.id_statistics.file import read_statistics
from dlrm.dataset_tools.inspect import run_inspect
from dlrm.dataset_tools.inspect.tables import percent, short
from dlrm.errors import ConfigError, DataError, SetupError
from dlrm.format import byte_size
from tests.unit.column_names import FOR_SCREENS
from tests.unit.dataset_tools.inspect.packed_folders import SEPARATE, small, write_manifest, write_part

PICTURES = ("click_rate.png", "missing.png", "tables.png", "id_frequency.png", "dense.png")


def shown(capsys, path: Path, **options) -> str:
    run_inspect(InspectConfig.model_validate({"path": str(path)} | options))
    return capsys.readouterr().out


def cells(text: str, first: str) -> list[str]:
    """The cells of the row that begins with ``first``."""
    return next(line for line in text.splitlines() if line.split()[:1] == [first]).split()


def test_tables_hold_the_numbers_of_the_files(tmp_path, capsys):
    split = {"train": ["day_0", "day_1"], "test": ["day_2"]}
    missing = {f"day_{i}": {"int_1": 40 * i} for i in range(3)}
    small(tmp_path, split=split, missing=missing, preprocessing=SEPARATE)
    text = shown(capsys, tmp_path)
    assert "1,200 rows in 3 parts, 2 dense and 3 sparse columns" in text
    labels = [np.load(tmp_path / f"day_{i}_labels.npy") for i in range(3)]
    assert cells(text, "train") == ["train", "800", "66.7%", f"{100 * np.mean(labels[:2]):.1f}%"]
    assert cells(text, "day_2")[-2:] == [f"{100 * labels[2].mean():.1f}%", "test"]
    ids = np.concatenate([np.load(tmp_path / f"day_{i}_sparse.npy") for i in range(3)])[:, 1]
    counts = np.bincount(ids)
    share = counts[counts > 0] / len(ids)
    assert cells(text, "cat_1")[:7] == [
        "cat_1",
        "50",
        str((counts > 0).sum()),
        f"{100 * (ids == 0).mean():.1f}%",
        f"{100 * (np.load(tmp_path / 'day_2_sparse.npy')[:, 1] == 1).mean():.1f}%",
        f"{100 * share.max():.1f}%",
        f"{100 * share.max():.1f}%",
    ]
    assert cells(text, "int_1")[1] == "10.0%"
    assert "All figures are of all rows." in text


def test_tables_fit_a_terminal_of_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    path = tmp_path / ("long" * 20)
    small(path, rows=100_000, preprocessing=SEPARATE)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(capsys, path, sample_rows=20_000))
    lines = [line for line in text.splitlines() if not line.startswith(str(path))]
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in text
    assert str(path / "inspect") in re.sub(r"\s+", "", text)
    assert "60,000 of 300,000 rows" in re.sub(r"\s+", " ", text)


def test_pictures_are_written_beside_the_data_or_where_they_are_wanted(tmp_path, capsys):
    folder = small(tmp_path / "data")
    text = shown(capsys, folder)
    for name in PICTURES:
        data = (folder / "inspect" / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert 300 < width < 3000
        assert 150 < height < 3000
        assert name in text
    shown(capsys, folder, pictures=str(tmp_path / "elsewhere"))
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == sorted(PICTURES)


def test_pictures_that_cannot_be_written_are_a_line(tmp_path, capsys):
    small(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"pictures cannot be written .*; name another folder: pictures"):
        shown(capsys, tmp_path, pictures=str(tmp_path / "file"))


def test_a_data_set_that_nobody_may_write_to_is_shown_without_pictures(tmp_path, capsys):
    small(tmp_path)
    (tmp_path / "inspect").write_text("")  # root may write to any folder
    run_inspect(InspectConfig(path=str(tmp_path)))
    said = capsys.readouterr()
    assert said.err.startswith(f"no pictures: {tmp_path}/inspect: pictures cannot be written (")
    assert said.err.count("\n") == 1
    assert "All figures are of all rows." in said.out
    assert "Pictures in" not in said.out


def test_a_folder_without_dataset_json_is_shown_with_a_note(tmp_path, capsys):
    small(tmp_path)
    (tmp_path / "dataset.json").unlink()
    text = shown(capsys, tmp_path, verify=True)
    largest = max(int(np.load(tmp_path / f"day_{i}_sparse.npy")[:, 0].max()) for i in range(3))
    assert cells(text, "cat_0")[1] == str(largest + 1)
    assert cells(text, "cat_0")[3:5] == ["n/a", "n/a"]
    assert "There is no dataset.json: table sizes are the largest id of these rows + 1." in text
    assert "verified 9 files" in text
    assert cells(text, "validation")[1] == "200"  # as training would take it


def test_a_single_part_without_dataset_json_is_for_nothing(tmp_path, capsys):
    write_part(tmp_path, "day_0", [[1.0], [2.0]], [[0], [1]], [0, 1])
    assert cells(shown(capsys, tmp_path), "unused") == ["unused", "2", "100%", "50.0%"]


def test_a_data_set_with_multi_hot_files_alone_is_shown(tmp_path, capsys):
    bags = [np.array([[0, 1], [2, 2], [0, 0]]), np.array([[4], [5], [6]])]
    write_part(tmp_path, "day_0", [[1.0]] * 3, None, [0, 1, 1], multi_hot=bags)
    text = shown(capsys, tmp_path)
    assert cells(text, "cat_0")[:4] == ["cat_0", "2", "3", "3"]
    assert cells(text, "cat_1")[:4] == ["cat_1", "1", "7", "3"]


def test_how_ids_are_spread_is_shown_and_kept_where_that_is_wanted(tmp_path, capsys):
    ids = np.array([7] * 500 + list(range(500)))
    np.random.default_rng(0).shuffle(ids)
    write_part(tmp_path / "data", "day_0", [[1.0]] * 1000, ids[:, None], [0, 1] * 500)
    write_manifest(tmp_path / "data", (8000,))
    file = tmp_path / "ids.json"
    text = shown(capsys, tmp_path / "data", id_statistics=str(file))
    spread = text[text.index("How ids are spread") :]
    name, per_sample, first, _, *hot, ranks = cells(spread, "cat_0")
    assert (name, per_sample) == ("cat_0", "1")
    assert float(first.replace(",", "")) >= 500  # more lookups than there are
    assert [float(share.rstrip("%")) for share in hot] == sorted(float(share.rstrip("%")) for share in hot)
    assert float(ranks) == pytest.approx(8, abs=0.01)  # all ids are of the first rank
    assert f"Statistics of ids in {file}." in text
    (kept,) = read_statistics(str(file))
    assert (kept.name, kept.rows, kept.samples, kept.seen) == ("cat_0", 8000, 1000, 500)
    assert (kept.hot_rows[0], kept.hot_counts[0]) == (7, 501)


def test_statistics_of_ids_are_of_all_ids_of_a_bag(tmp_path, capsys):
    bags = [np.array([[0, 1], [2, 2], [0, 0]]), np.array([[4], [5], [6]])]
    write_part(tmp_path, "day_0", [[1.0]] * 3, None, [0, 1, 1], multi_hot=bags)
    shown(capsys, tmp_path, id_statistics=str(tmp_path / "ids.json"))
    first, second = read_statistics(str(tmp_path / "ids.json"))
    assert (first.ids_per_sample, first.lookups, first.hot_rows[0], first.hot_counts[0]) == (2, 6, 0, 3)
    assert (second.ids_per_sample, second.rows) == (1, 7)


def test_the_first_fault_is_the_error_and_the_others_are_printed(tmp_path, capsys):
    small(tmp_path)
    for i, value in ((0, np.nan), (2, np.inf)):
        dense = np.load(tmp_path / f"day_{i}_dense.npy")
        dense[3, 1] = value
        np.save(tmp_path / f"day_{i}_dense.npy", dense)
    with pytest.raises(DataError) as caught:
        shown(capsys, tmp_path, verify=True)
    assert str(caught.value) == (
        f"{tmp_path}/day_0_dense.npy, row 4, column int_1: nan is not finite (1 further fault in other files); "
        "prepare it again, or copy it anew"
    )
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(";")[0] for line in printed] == [
        f"{tmp_path}/day_2_dense.npy, row 4, column int_1: inf is not finite",
    ]


def test_what_is_outside_of_its_range_in_the_sample_is_noted(tmp_path, capsys):
    small(tmp_path)
    ids = np.load(tmp_path / "day_0_sparse.npy")
    ids[:2, 0] = 5
    np.save(tmp_path / "day_0_sparse.npy", ids)
    text = shown(capsys, tmp_path)
    assert "Ids outside of their tables: cat_0 (2). --verify names the rows." in text


@pytest.mark.parametrize(
    ("path", "error", "expected"),
    [
        ("https://example.org/data", ConfigError, "is remote: name a folder that this host sees"),
        ("/does/not/exist", DataError, "there is no such folder"),
    ],
)
def test_a_folder_that_is_none_is_a_line(capsys, path, error, expected):
    with pytest.raises(error, match=expected):
        shown(capsys, path)


def test_a_data_set_without_rows_is_a_line(tmp_path, capsys):
    write_part(tmp_path, "day_0", np.zeros((0, 1)), np.zeros((0, 1), np.int32), [])
    with pytest.raises(DataError, match="holds no row"):
        shown(capsys, tmp_path)


def test_numbers_for_people():
    assert [percent(x) for x in (0, 1, 0.5, 0.00004, 0.0123, 0.0042, 0.9999)] == [
        "0%", "100%", "50.0%", "<0.01%", "1.2%", "0.42%", ">99.9%",
    ]  # fmt: skip
    assert [short(x) for x in (0, 7, 7.123, 512.4, 9999, 12_345, 40_000_000, 999_960, 1.5e12)] == [
        "0", "7", "7.12", "512", "9,999", "12.3k", "40M", "1M", "1.5T",
    ]  # fmt: skip
    assert [byte_size(x) for x in (12, 2048, 5 * 2**30)] == ["12 B", "2.0 KiB", "5.0 GiB"]


def test_a_data_set_without_dense_features_is_shown_and_verified(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("day_0", "day_1"):
        write_part(tmp_path, name, np.empty((50, 0)), rng.integers(0, 5, (50, 2)), rng.random(50) < 0.3)
    for recorded in (False, True):
        if recorded:
            write_manifest(tmp_path, (5, 5))
        text = shown(capsys, tmp_path, verify=True)
        assert "0 dense and 2 sparse columns" in text
        assert "verified 6 files" in text
        assert "Dense columns" not in text
    assert not (tmp_path / "inspect" / "dense.png").exists()
    assert (tmp_path / "inspect" / "tables.png").exists()


def test_dense_values_where_the_manifest_has_none_are_a_fault(tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_part(tmp_path, "all", np.empty((50, 0)), rng.integers(0, 5, (50, 2)), rng.random(50) < 0.3)
    write_manifest(tmp_path, (5, 5))
    manifest = (tmp_path / "dataset.json").read_text()
    write_part(tmp_path, "all", np.zeros((50, 1)), rng.integers(0, 5, (50, 2)), rng.random(50) < 0.3)
    write_manifest(tmp_path, (5, 5))
    (tmp_path / "dataset.json").write_text((tmp_path / "dataset.json").read_text().replace('"int_0"', ""))
    assert manifest != (tmp_path / "dataset.json").read_text()
    with pytest.raises(DataError, match="has 1 columns, 0 are needed"):
        shown(capsys, tmp_path, verify=True)


@pytest.mark.parametrize("dense", [0, 2])
def test_names_of_columns_do_no_harm_in_tables_and_pictures(tmp_path, capsys, dense):
    names = [*FOR_SCREENS, "$x^$", "a$b", "\\$", "x" * 3000, "{}", "%s"]
    rng = np.random.default_rng(0)
    write_part(tmp_path, "all", rng.random((50, dense)), rng.integers(0, 5, (50, len(names))), rng.random(50) < 0.3)
    write_manifest(tmp_path, [5] * len(names), missing={"all": {f"int_{i}": i for i in range(dense)}})
    text = (tmp_path / "dataset.json").read_text()
    for i, name in reversed(list(enumerate(names))):
        text = text.replace(f'"cat_{i}"', json.dumps(name))
    text = text.replace('"int_0"', json.dumps("\x1b[31m$d^")).replace('"int_1"', json.dumps("[/b]"))
    (tmp_path / "dataset.json").write_text(text)
    printed = shown(capsys, tmp_path, verify=True)
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "[bold]x[/bold]" in printed
    assert (tmp_path / "inspect" / "tables.png").stat().st_size < 1_000_000
