"""Starting over on several ranks: the old data set stays until every rank has parsed its files."""

from tests.dist.test_preprocess import refused, run
from tests.support.ranks import run_ranks
from tests.unit.preprocess.tiny_criteo import contents, make, write_raw


def test_the_old_data_set_stays_until_the_files_of_every_rank_are_parsed(tmp_path):
    output = make(write_raw(tmp_path / "before", rows=(9, 8, 7, 6)), tmp_path / "out")
    old = contents(output)
    raw = write_raw(tmp_path / "raw")
    with open(raw / "day_2", "ab") as file:  # the smallest file is not rank 0's
        file.write(b"1\t2\tx\t\t\t\n")
    errors = run_ranks(refused, 2, raw, [output] * 2, {"overwrite": True})
    assert "day_2, row 34, column int_1" in errors[0]
    assert old.items() <= contents(output).items()
    run_ranks(run, 2, raw, output, {"overwrite": True, "bad_rows": "skip"})
    assert contents(output) == contents(make(raw, tmp_path / "alone", bad_rows="skip"))
