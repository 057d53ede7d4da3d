"""Predict on several gloo ranks: the bytes of one process, and one error for all."""

import os
import time

import pytest

from dlrm.distributed.collectives import ProcessGroup
from dlrm.errors import DlrmError
from tests.support.predicting import options, predict_alone
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


def refused(rank, world_size, forms, output, form, changes):
    from dlrm.inference.predict import score
    from dlrm.inference.predict.job import predict

    if rank == 0:
        real = score.part_of

        def slow(*arguments, **keywords):  # so that there is something left when another rank has failed
            time.sleep(0.2)
            return real(*arguments, **keywords)

        score.part_of = slow
    with pytest.raises(DlrmError) as error:
        predict(options(forms, output, form, **changes), ProcessGroup())
    return str(error.value)


def test_all_ranks_raise_what_one_finds_wrong_and_end_soon(forms, alone, tmp_path):
    """The mistake is in rank 1's first block; rank 0 does not score all of its own before that is told."""
    lines = list(forms.lines) * 3
    lines[220] = b"no row"
    path = tmp_path / "a"
    path.write_bytes(b"\n".join(lines))
    changes = {"input": [str(path)], "threads": 1}
    errors = run_ranks(refused, 2, forms, tmp_path / "out.npy", "raw", changes)
    assert len(set(errors)) == 1
    assert errors[0].startswith(f"{path}, row 221: row has 1 column")
    parts = len(list((tmp_path / "out.npy.parts").glob("*.arrow")))
    blocks = -(-path.stat().st_size // (20 * 256))
    assert 0 < parts < blocks - 1
    run_ranks(run, 4, forms, [(tmp_path / "out.npy", "raw", {**changes, "bad_rows": "skip"})])
    whole = predict_alone(forms, tmp_path / "whole.npy", **changes, bad_rows="skip")
    assert (tmp_path / "out.npy").read_bytes() == whole.read_bytes()


def unshared(rank, world_size, forms, outputs):
    from dlrm.inference.predict import work

    work._SEEN_WITHIN_S = 0.2
    return refused(rank, world_size, forms, outputs[rank], "packed", {})


def test_ranks_that_do_not_share_the_output_say_so(forms, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    errors = run_ranks(unshared, 2, forms, [tmp_path / "one" / "a.npy", tmp_path / "other" / "a.npy"])
    assert len(set(errors)) == 1
    assert "does not see what rank 0 writes" in errors[0]
