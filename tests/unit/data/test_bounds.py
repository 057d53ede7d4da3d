"""Ids outside of their tables, against whole numbers of Python."""

import pytest
import torch

from dlrm.data.bounds import mended, outside

ROWS = [3, 7, 2**40]
IDS = [[0, 6, 2**40 - 1], [3, -1, 2**40], [-4, 700, -1]]


@pytest.mark.parametrize("beyond", ["hash", "clamp"])
def test_bad_ids_become_what_python_says_and_good_ones_stay(beyond):
    expected = [
        [one % rows if beyond == "hash" else min(max(one, 0), rows - 1) for one, rows in zip(row, ROWS, strict=True)]
        for row in IDS
    ]
    found_BS = mended(torch.tensor(IDS), torch.tensor(ROWS), beyond)
    assert found_BS.tolist() == expected
    assert found_BS[0].tolist() == IDS[0]
    assert not outside(found_BS, torch.tensor(ROWS)).any()


def test_small_ids_may_be_of_large_tables():
    found_BS = mended(torch.tensor([[-1, 5]], dtype=torch.int32), torch.tensor([2**40, 4]), "hash")
    assert found_BS.tolist() == [[2**40 - 1, 1]]


def test_the_first_and_the_last_row_are_inside():
    assert outside(torch.tensor(IDS), torch.tensor(ROWS)).tolist() == [[False] * 3, [True] * 3, [True] * 3]
