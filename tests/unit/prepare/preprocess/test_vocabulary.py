import subprocess
import sys
import textwrap
from collections import Counter

import numpy as np
import pytest

from dlrm.config.prepare import ContiguousVocabulary
from dlrm.distributed.collectives import OneProcess
from dlrm.errors import DataError
from dlrm.prepare.preprocess import vocabulary
from dlrm.prepare.preprocess.vocabulary import build_vocabulary
from tests.unit.prepare.preprocess.columns import clustered_columns, distinct, present, skewed_column

MLPERF = ContiguousVocabulary(of="all", reserved="mlperf")


@pytest.fixture(params=["sorted", "counted"])
def how(request, monkeypatch):
    """Both ways of finding a vocabulary."""
    if request.param == "counted":
        monkeypatch.setattr(vocabulary, "_FEW_ROWS", 0)
    return request.param


def built(column, config=None, *, pieces=1, threads=2, **options):
    categories, is_missing = column
    parts = list(zip(np.array_split(categories, pieces), np.array_split(is_missing, pieces), strict=True))
    return build_vocabulary(
        lambda: iter(parts), config or ContiguousVocabulary(), threads=threads, collectives=OneProcess(), **options
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("min_count", [1, 2, 3, 5, 40, 300])
def test_the_vocabulary_is_what_a_counter_finds_often_enough(how, min_count, threads):
    categories, is_missing = skewed_column()
    counts = Counter(categories[~is_missing].tolist())
    config = ContiguousVocabulary(min_count=min_count)
    found = built((categories, is_missing), config, pieces=3, threads=threads)
    assert found.dtype == np.uint32
    assert found.tolist() == sorted(value for value, count in counts.items() if count >= min_count)


@pytest.mark.parametrize("name", clustered_columns())
def test_the_vocabulary_of_clustered_values_is_theirs(how, name):
    values = clustered_columns()[name]
    assert (built(present(*values.ravel())) == distinct(values)).all()


def test_mlperf_counts_a_missing_category_as_the_value_0(how):
    categories = np.array([9, 0, 4], np.uint32)
    is_missing = np.array([False, True, False])
    assert built((categories, is_missing), MLPERF).tolist() == [0, 4, 9]
    assert built((categories, is_missing)).tolist() == [4, 9]
    assert built((categories[::2], is_missing[::2]), MLPERF).tolist() == [4, 9]


@pytest.mark.parametrize("min_count", [1, 2])
def test_columns_without_rows_or_with_missing_values_only_have_an_empty_vocabulary(how, min_count):
    config = ContiguousVocabulary(min_count=min_count)
    no_columns = build_vocabulary(list, config, threads=2, collectives=OneProcess())
    assert (no_columns.shape, no_columns.dtype) == ((0,), np.uint32)
    assert len(built(present(), config)) == 0
    assert len(built((np.zeros(1000, np.uint32), np.ones(1000, bool)), config)) == 0
    assert built((np.zeros(1000, np.uint32), np.ones(1000, bool)), MLPERF).tolist() == [0]


def test_the_vocabulary_depends_neither_on_order_nor_on_pieces_nor_on_threads(how):
    categories, is_missing = skewed_column(rows=60_000)
    order = np.random.default_rng(5).permutation(len(categories))
    first = built((categories, is_missing), pieces=1, threads=1)
    assert (built((categories[order], is_missing[order]), pieces=50, threads=3) == first).all()


def test_more_than_a_few_rows_are_counted_in_batches(monkeypatch):
    monkeypatch.setattr(vocabulary, "_FEW_ROWS", 1000)
    monkeypatch.setattr(vocabulary, "_BATCH_ROWS", 700)
    categories, is_missing = skewed_column()
    assert (built((categories, is_missing), pieces=100) == np.unique(categories[~is_missing])).all()


def test_read_only_and_memory_mapped_columns_are_counted_as_others(how, tmp_path):
    categories, is_missing = skewed_column()
    np.save(tmp_path / "column.npy", categories)
    mapped = np.load(tmp_path / "column.npy", mmap_mode="r")
    assert (built((mapped, is_missing), pieces=4) == built((categories, is_missing))).all()


def test_the_file_of_the_vocabulary_leaves_nothing_in_its_folder(how, tmp_path):
    found = built(skewed_column(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not found.flags.writeable
    assert (np.diff(found.astype(np.int64)) > 0).all()


def test_a_column_that_cannot_be_read_is_the_error_that_its_reader_raises(how):
    def columns():
        yield present(1, 2)
        raise DataError("chunk_3", "is cut off")

    with pytest.raises(DataError, match="chunk_3: is cut off"):
        build_vocabulary(columns, ContiguousVocabulary(), threads=2, collectives=OneProcess())


def test_counting_values_everywhere_takes_at_most_600_mib():
    # The limit of a process's data counts private memory whether it is touched or not, so it holds on every machine. The
    # values touch each of the 131,072 pages; the second limit shows that the limit is one.
    script = """
        import resource, sys
        import numpy as np
        from dlrm.config.prepare import ContiguousVocabulary
        from dlrm.distributed.collectives import OneProcess
        from dlrm.prepare.preprocess import vocabulary

        def built(rows, min_count):
            def columns():
                for start in range(0, rows, 1 << 18):
                    values = np.arange(start, min(start + (1 << 18), rows), dtype=np.uint64) * 2654435761
                    yield (values % 2**32).astype(np.uint32), np.zeros(len(values), bool)
            config = ContiguousVocabulary(min_count=min_count)
            return vocabulary.build_vocabulary(columns, config, threads=2, collectives=OneProcess())

        def limit(mib):
            used_kib = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
            resource.setrlimit(resource.RLIMIT_DATA, ((used_kib << 10) + (mib << 20), resource.RLIM_INFINITY))

        vocabulary._FEW_ROWS = 0
        assert len(built(1000, 1)) == 1000  # compiled, libraries loaded
        limit(600)
        assert len(built(1 << 21, 1)) == 1 << 21
        assert len(built(1 << 19, 2)) == 0
        limit(500)
        try:
            built(1000, 1)
        except (OSError, MemoryError):
            print("no room below")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no room below\n"), done.stderr
