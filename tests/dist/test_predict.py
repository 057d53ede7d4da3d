"""Predict on several gloo ranks: the bytes of one process, and one error for all."""

import errno
import os
import time
from functools import partial
from pathlib import Path

import pytest

from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import DlrmError
from tests.support.predicting import ROWS, options, predict_alone
from tests.support.ranks import run_ranks

OUTPUTS = [("raw", "csv"), ("gz", "npy"), ("packed", "npy"), ("packed", "parquet"), ("parquet", "parquet")]


def run(rank, world_size, forms, cases):
    from dlrm.inference.predict.job import predict

    for output, form, changes in cases:
        predict(options(forms, output, form, **changes), ProcessGroup())
    return True


@pytest.fixture(scope="module")
def alone(forms, tmp_path_factory):
    """What one process writes, by form and ending."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        (form, ending): predict_alone(forms, folder / f"{form}.{ending}", form).read_bytes() for form, ending in OUTPUTS
    }


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_write_the_bytes_of_one_process(forms, alone, tmp_path, world_size):
    cases = [(tmp_path / f"{form}.{ending}", form, {"threads": 1 + world_size % 3}) for form, ending in OUTPUTS]
    run_ranks(run, world_size, forms, cases)
    for form, ending in OUTPUTS:
        assert (tmp_path / f"{form}.{ending}").read_bytes() == alone[form, ending]
    assert not [name for name in os.listdir(tmp_path) if ".parts" in name]


def refused(rank, world_size, forms, output, form, changes, *, full=False):
    """The error, where rank 0 scores nothing before another rank has failed; with a full disk that one cannot write."""
    from dlrm.inference.predict import score
    from dlrm.inference.predict.job import predict

    real = score.part_of

    def waiting(*arguments, **keywords):
        give_up_at = time.monotonic() + 120
        while not list(Path(f"{output}.parts").glob("stop.*")) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        return real(*arguments, **keywords)

    def no_room(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part")

    score.part_of = waiting if rank == 0 else no_room if full else real
    with pytest.raises(DlrmError) as error:
        predict(options(forms, output, form, **changes), ProcessGroup())
    return str(error.value)


def parts_of(output):
    return len(list(Path(f"{output}.parts").glob("*.arrow")))


def test_all_ranks_raise_what_one_finds_wrong_and_end_soon(forms, alone, tmp_path):
    """The mistake is in rank 1's first block; rank 0 does not score all of its own after that is told."""
    lines = list(forms.lines) * 3
    lines[220] = b"no row"
    path, output = tmp_path / "a", tmp_path / "out.npy"
    path.write_bytes(b"\n".join(lines))
    changes = {"input": [str(path)], "threads": 1}
    errors = run_ranks(refused, 2, forms, output, "raw", changes)
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"{path}, row 221: row has 1 column")
    blocks = -(-path.stat().st_size // (20 * 256))
    assert 0 < parts_of(output) < blocks // 2
    run_ranks(run, 4, forms, [(output, "raw", {**changes, "bad_rows": "skip"})])
    whole = predict_alone(forms, tmp_path / "whole.npy", **changes, bad_rows="skip")
    assert output.read_bytes() == whole.read_bytes()


def test_a_rank_whose_disk_is_full_stops_the_others(forms, tmp_path):
    output = tmp_path / "out.npy"
    errors = run_ranks(partial(refused, full=True), 2, forms, output, "packed", {"threads": 1, "chunk_rows": 5})
    assert set(errors) == {errors[0]}
    assert "the disk refuses (No space left on device)" in errors[0]
    assert parts_of(output) < sum(ROWS) // 5 // 2 // 2  # of rank 0's half


def unshared(rank, world_size, forms, outputs):
    from dlrm import files

    files._SEEN_WITHIN_S = 0.2
    return refused(rank, world_size, forms, outputs[rank], "packed", {})


def test_ranks_that_do_not_share_the_output_say_so(forms, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    errors = run_ranks(unshared, 2, forms, [tmp_path / "one" / "a.npy", tmp_path / "other" / "a.npy"])
    assert len(set(errors)) == 1
    assert "does not see what rank 0 writes" in errors[0]
