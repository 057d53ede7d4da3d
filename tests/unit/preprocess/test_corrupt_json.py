"""Whatever is in the JSON files of a job that goes on, or of a data set that is there, the job ends with one line."""

import dataclasses
import json
import os
import random
from types import SimpleNamespace
from typing import Any

import pytest

from dlrm.config.prepare import PreprocessConfig
from dlrm.data.packed.manifest import PartRecord
from dlrm.errors import ConfigError, DataError
from dlrm.preprocess import job_state
from dlrm.preprocess.job_state import State, begin, finished_output, parameters
from dlrm.preprocess.work_folder import ChunkCounts, WorkFolder, read_json
from tests.unit.dataset_tools.inspect.packed_folders import small
from tests.unit.mutations import mutations

SAMPLED = int(os.environ.get("DLRM_FUZZ", "150"))
SOURCES = [{"name": "day_0", "bytes": 12, "mtime_ns": 5}]
FILE = {"name": "day_0_dense.npy", "bytes": 10, "sha256": "0" * 64}


def sample(document):
    every = list(mutations(document))
    return random.Random(7).sample(every, min(SAMPLED, len(every)))


def a_source():
    file = SimpleNamespace(path="/raw/day_0", bytes=12, part="day_0")
    return SimpleNamespace(file=file, mtime_ns=5)


def assert_a_line_at_most(what, action):
    said = ""
    try:
        action()
    except (ConfigError, DataError) as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{what} ends in a traceback") from error
    assert said.isprintable(), (what, said)


def test_the_state_of_a_job_that_was_begun(tmp_path):
    config = PreprocessConfig(input="/raw", output=str(tmp_path))
    work = WorkFolder(tmp_path)
    (work.path / "raw" / "0").mkdir(parents=True)
    (work.path / "raw" / "0" / "0").touch()
    state = State(parameters(config), SOURCES, 1 << 20, config.bucket_rows)
    for what, text in sample(dataclasses.asdict(state)):
        work.state.write_bytes(text)
        assert_a_line_at_most(what, lambda: begin(config, [a_source()], work, 1 << 20))


def test_the_manifest_of_a_data_set_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(job_state, "_check_whole", lambda manifest, folder: None)
    config = PreprocessConfig(input="/raw", output=str(tmp_path))
    made = {"parameters": parameters(config), "sources": [{"name": "day_0", "bytes": 12, "rows": 3}]}
    small(tmp_path, parts=1, rows=10, preprocessing=made)
    document = json.loads((tmp_path / "dataset.json").read_text())
    for what, text in sample(document["preprocessing"]):
        (tmp_path / "dataset.json").write_bytes(
            json.dumps({**document, "preprocessing": "@"}).encode().replace(b'"@"', text)
        )
        os.utime(tmp_path / "dataset.json", (2e9, 2e9))
        assert_a_line_at_most(what, lambda: finished_output(config, [a_source()], tmp_path))


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (list[ChunkCounts], [{"rows": 10, "skipped_rows": 0, "missing": {"int_0": 2}}]),
        (PartRecord, {"name": "day_0", "rows": 3, "files": {"dense": FILE}, "clicks": 1, "missing": {"int_0": 1}}),
        (dict[str, Any], {"replaces": None, "parameters": {"parts": {}}}),
    ],
)
def test_what_was_counted_and_recorded(tmp_path, kind, document):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    read_json(path, kind)
    for what, text in sample(document):
        path.write_bytes(text)
        assert_a_line_at_most(what, lambda: read_json(path, kind))
