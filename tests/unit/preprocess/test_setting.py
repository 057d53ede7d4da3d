"""Work is dealt out to ranks evenly and the same on each."""

from dlrm.preprocess.setting import owners


def test_the_largest_go_first_to_whoever_has_least():
    assert owners([10, 70, 30, 40], 2) == [0, 0, 1, 1]
    assert owners([5, 5, 5, 5], 3) == [0, 1, 2, 0]
    assert owners([1], 3) == [0]


def test_everything_has_an_owner_and_no_rank_has_more_than_its_share_and_one_thing():
    sizes = [(i * 37) % 101 for i in range(50)]
    owner = owners(sizes, 7)
    loads = [sum(size for size, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(7)]
    assert sum(loads) == sum(sizes)
    assert max(loads) <= sum(sizes) / 7 + max(sizes)
