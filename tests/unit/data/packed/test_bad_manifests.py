"""Every way in which dataset.json can be wrong, or not what is there, ends in one line that names file and hint."""

import pytest

from dlrm.data.packed.folder import open_packed
from dlrm.errors import DataError
from tests.unit.data.packed.damage import SIZES, Case, assert_one_line, edit, edit_json, leaves, named, put
from tests.unit.data.packed.packed_files import record, write_days, write_manifest


def both(*acts):
    return lambda folder: [act(folder) for act in acts]


def sha(found):
    found["parts"][1]["files"]["dense"]["sha256"] = "no checksum"


MANIFEST = [
    Case("no JSON", put("dataset.json", b"{'a': 1}"), "dataset.json", "is not valid JSON"),
    Case("no text", put("dataset.json", b"\xff\xfe\x00"), "dataset.json", "is not valid JSON"),
    Case("nested deeply", put("dataset.json", b"[" * 100_000), "dataset.json", "is not valid JSON"),
    Case("other JSON", put("dataset.json", b"[1, 2]"), "dataset.json", "is not the manifest of a packed data set"),
    Case(
        "unknown version",
        edit_json(lambda found: found.update(version=99)),
        "dataset.json",
        "has format version 99, this program reads 1",
    ),
    Case("missing field", edit_json(lambda found: found.pop("parts")), "dataset.json", "parts: Field required"),
    Case(
        "unknown field",
        edit_json(lambda found: found.update({"a\nb": 1})),
        "dataset.json",
        "a\\nb: Extra inputs are not permitted",
    ),
    Case(
        "rows are text",
        edit_json(lambda found: found["parts"][0].update(rows="50")),
        "dataset.json",
        "parts.0.rows: must be a valid integer",
    ),
    Case(
        "negative rows",
        edit_json(lambda found: found["parts"][0].update(rows=-1)),
        "dataset.json",
        "parts.0.rows: must be greater than or equal to 0",
    ),
    Case("no parts", edit_json(lambda found: found.update(parts=[])), "dataset.json", "parts: "),
    Case("no checksum", edit_json(sha), "dataset.json", "parts.1.files.dense.sha256: String should match"),
    Case(
        "path upwards",
        edit_json(lambda found: found["parts"][1]["files"]["dense"].update(name="../day_1_dense.npy")),
        "dataset.json",
        "the path '../day_1_dense.npy' leaves the folder",
    ),
    Case(
        "absolute path",
        edit_json(lambda found: found["parts"][1]["files"]["dense"].update(name="/etc/passwd")),
        "dataset.json",
        "the path '/etc/passwd' leaves the folder",
    ),
    Case(
        "path with a control character",
        edit_json(lambda found: found["parts"][1]["files"]["dense"].update(name="a\nb")),
        "dataset.json",
        "'a\\nb' is no plain path",
    ),
    Case("link that leaves", leaves, "day_1_dense.npy", "is a link that leaves the folder"),
    Case(
        "part twice",
        edit_json(lambda found: found["parts"].append(found["parts"][0])),
        "dataset.json",
        "part day_0 is listed twice",
    ),
    Case(
        "file twice",
        edit_json(lambda found: found["parts"][1]["files"].update(found["parts"][0]["files"])),
        "dataset.json",
        "file day_0_dense.npy is listed twice",
    ),
    Case(
        "feature twice",
        edit_json(lambda found: found["sparse"][1].update(name="cat_0")),
        "dataset.json",
        "feature cat_0 is listed twice",
    ),
    Case(
        "split of an absent part",
        edit_json(lambda found: found["split"]["test"][0].update(part="day_9")),
        "dataset.json",
        "split.test names part day_9, which is not listed",
    ),
    Case(
        "split beyond the rows",
        edit_json(lambda found: found["split"]["test"][0].update(stop=31)),
        "dataset.json",
        "split.test has rows 15 .. 31 of day_2, which has 30",
    ),
    Case(
        "rows used twice",
        edit_json(lambda found: found["split"]["test"][0].update(start=10)),
        "dataset.json",
        "validation and test share rows 10 .. 14 of day_2",
    ),
    Case(
        "file gone",
        lambda folder: (folder / "day_1_sparse.npy").unlink(),
        "day_1_sparse.npy",
        "is missing (the sparse file of part day_1)",
    ),
    Case(
        "kind not listed",
        both(
            edit_json(lambda found: found["parts"][1]["files"].pop("dense")),
            lambda folder: (folder / "day_1_dense.npy").unlink(),
        ),
        "day_1_dense.npy",
        "is missing (the dense file of part day_1)",
    ),
    Case(
        "other size",
        edit("day_1_dense.npy", lambda old: old[:-4]),
        "day_1_dense.npy",
        "has 604 bytes, dataset.json says 608",
    ),
    Case(
        "other rows",
        edit_json(lambda found: found["parts"][1].update(rows=41)),
        "day_1_dense.npy",
        "has 40 rows, dataset.json says 41",
    ),
    Case(
        "other dense columns",
        edit_json(lambda found: found["dense"].append("int_3")),
        "day_0_dense.npy",
        "has 3 columns, dataset.json says 4",
    ),
    Case(
        "other sparse columns",
        edit_json(lambda found: found["sparse"].pop()),
        "day_0_sparse.npy",
        "has 3 columns, dataset.json says 2",
    ),
]


@pytest.mark.parametrize("case", named(MANIFEST))
def test_a_bad_manifest_is_one_line_that_names_file_and_hint(tmp_path, case):
    assert_one_line(tmp_path, case, manifest=True, multi_hot=False)


def test_a_manifest_too_large_to_be_one_is_not_read(tmp_path):
    write_days(tmp_path, SIZES)
    with open(tmp_path / "dataset.json", "wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(DataError, match=r"dataset.json: is no manifest: it is larger than 67,108,864 bytes; "):
        open_packed(str(tmp_path))


def test_a_manifest_that_is_written_reads_back_as_it_was(tmp_path):
    write_days(tmp_path, SIZES, multi_hot=True)
    manifest = record(tmp_path, SIZES, multi_hot=True)
    write_manifest(tmp_path, manifest)
    assert open_packed(str(tmp_path)).manifest == manifest
