"""Preprocessing on several gloo ranks: the bytes of one process, and one error for all."""

import pytest

from dlrm import files
from dlrm.data.packed.write import PartWriter
from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import DlrmError
from dlrm.preprocess import job
from dlrm.preprocess.job import preprocess
from tests.support.ranks import run_ranks
from tests.unit.preprocess.tiny_criteo import CHUNK_BYTES, contents, make, options, write_raw


def run(rank, world_size, raw, output, changes):
    preprocess(options(raw, output, **changes), ProcessGroup(), chunk_bytes=CHUNK_BYTES)


def refused(rank, world_size, raw, outputs, changes):
    files._SEEN_WITHIN_S = 0.2
    with pytest.raises(DlrmError) as error:
        run(rank, world_size, raw, outputs[rank], changes)
    return str(error.value)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shuffle": True},
        {"shuffle": True, "parts": {"kind": "days", "days": 4}},
        {"categories": {"kind": "vocabulary", "min_count": 3, "of": "all"}},
        {"categories": {"kind": "hashing", "rows": 100}},
    ],
    ids=["in order", "shuffled", "cut into days", "rare categories", "hashed"],
)
def test_ranks_write_the_bytes_of_one_process(tmp_path, world_size, changes):
    raw = write_raw(tmp_path / "raw")
    run_ranks(run, world_size, raw, tmp_path / "ranks", changes)
    alone = make(raw, tmp_path / "alone", **changes)
    assert contents(tmp_path / "ranks") == contents(alone)


def test_more_ranks_than_files_is_no_mistake(tmp_path):
    raw = write_raw(tmp_path / "raw", rows=(60, 20))
    run_ranks(run, 3, raw, tmp_path / "ranks", {})
    assert contents(tmp_path / "ranks") == contents(make(raw, tmp_path / "alone"))


def test_all_ranks_raise_what_one_finds_wrong(tmp_path):
    raw = write_raw(tmp_path / "raw")
    with open(raw / "day_2", "ab") as file:  # the smallest file is not rank 0's
        file.write(b"1\t2\tx\t\t\t\n")
    errors = run_ranks(refused, 2, raw, [tmp_path / "out"] * 2, {})
    assert len(set(errors)) == 1
    assert "day_2, row 34, column int_1" in errors[0]


def test_ranks_that_do_not_share_the_output_say_so(tmp_path):
    raw = write_raw(tmp_path / "raw")
    errors = run_ranks(refused, 2, raw, [tmp_path / "one", tmp_path / "other"], {})
    assert len(set(errors)) == 1
    assert "does not see what rank 0 writes" in errors[0]


def fail_late(rank, world_size, raw, output, changes):
    def fail(*_):
        raise job.DataError("somewhere", "is broken")

    if rank == 1:
        job.write_parts = fail
    return refused(rank, world_size, raw, [output] * world_size, changes)


def test_other_ranks_can_go_on_with_what_some_have_begun(tmp_path):
    raw = write_raw(tmp_path / "raw")
    assert run_ranks(fail_late, 3, raw, tmp_path / "out", {"shuffle": True}) == ["somewhere: is broken"] * 3
    run_ranks(run, 2, raw, tmp_path / "out", {"shuffle": True})
    assert contents(tmp_path / "out") == contents(make(raw, tmp_path / "alone", shuffle=True))


def test_ranks_can_go_on_with_rows_of_which_one_process_has_given_some_back(tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "raw")
    changes = {"shuffle": True, "split": {"train": ["day_0", "day_1", "day_2"], "validation": [], "test": []}}
    finish, sizes = PartWriter.finish, []

    def fail_at_the_second(writer, **counts):
        chunks = (tmp_path / "out").glob("preprocess.work/raw/[0-9]/*[0-9]")
        sizes.append(sum(path.stat().st_size for path in chunks))
        if len(sizes) == 2:
            raise DlrmError("stopped")
        return finish(writer, **counts)

    monkeypatch.setattr(PartWriter, "finish", fail_at_the_second)
    with pytest.raises(DlrmError, match="stopped"):
        make(raw, tmp_path / "out", workers=1, **changes)
    monkeypatch.undo()
    assert sizes[1] < sizes[0]
    run_ranks(run, 2, raw, tmp_path / "out", changes)
    assert contents(tmp_path / "out") == contents(make(raw, tmp_path / "alone", **changes))
