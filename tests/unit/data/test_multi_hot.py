import itertools
import platform
import threading

import numpy as np
import pytest
import torch
from scipy.stats import chi2, ks_2samp

from dlrm.config.data.packed import HashedMultiHot, MlperfMultiHot
from dlrm.data.check import SampleCheck
from dlrm.data.in_memory import InMemorySource
from dlrm.data.multi_hot import lookup, multi_hot_dataset
from dlrm.data.multi_hot.hashed import HashedBags
from dlrm.data.multi_hot.lookup import LookupBags
from dlrm.data.multi_hot.recipe import Recipe
from dlrm.data.source import Dataset
from dlrm.errors import ConfigError, DataError, SetupError
from dlrm.schema import Schema

ROWS, HOTNESS = (1000, 1, 37, 30_000, 5, 4096), (3, 4, 1, 100, 2, 7)


def recipe_tables(rows, hotness, distribution, seed=0):
    """The arithmetic of torchrec_dlrm/multi_hot.py, written down literally: int64 draws of a table at a time."""
    stream = np.random.RandomState(seed)
    tables = []
    for n, k in zip(rows, hotness, strict=True):
        if distribution == "uniform":
            drawn = stream.randint(0, n, size=(n, k - 1))
        else:
            with np.errstate(invalid="ignore"):
                drawn = stream.pareto(a=0.25, size=(n, k - 1)).astype(np.int32) % n
        tables.append(np.concatenate((np.arange(n)[:, None], drawn), axis=-1).astype(np.int32))
    return tables


def random_ids(rows, count, seed=1):
    random = np.random.default_rng(seed)
    return np.stack([random.integers(0, n, count) for n in rows], axis=1)


def bags_of(rows, hotness, distribution, seed=0, cache_dir="unused"):
    recipe = Recipe(rows, hotness, distribution, seed)
    return LookupBags(recipe, str(cache_dir))


on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="casts beyond int32 as x86 does")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("distribution", ["uniform", pytest.param("pareto", marks=on_x86)])
def test_lookup_bags_are_those_of_the_recipes_arithmetic(distribution, dtype):
    ids_BF = random_ids(ROWS, 500).astype(dtype)
    tables = recipe_tables(ROWS, HOTNESS, distribution)
    expected = np.concatenate([table[ids] for table, ids in zip(tables, ids_BF.T, strict=True)], axis=1)
    ids_BS = bags_of(ROWS, HOTNESS, distribution).expand(torch.from_numpy(ids_BF)).numpy()
    assert ids_BS.dtype == dtype
    np.testing.assert_array_equal(ids_BS, expected)


def test_uniform_ids_of_the_recipe_have_these_values_for_ever():
    # np.random.seed(0); np.random.randint(0, 10, (10, 2)); the legacy stream is frozen by NumPy's policy (NEP 19).
    drawn = bags_of((10,), (3,), "uniform").expand(torch.arange(10)[:, None])
    assert drawn[:, 1:].flatten().tolist() == [5, 0, 3, 3, 7, 9, 3, 5, 2, 4, 7, 6, 8, 8, 1, 6, 7, 7, 8, 1]


def test_pareto_ids_beyond_int32_fold_as_x86_casts_them():
    rows = 1_000_003
    drawn = np.random.RandomState(0).pareto(a=0.25, size=4 * rows)
    beyond = drawn >= 2**31
    assert 0.004 < beyond.mean() < 0.0055  # (2^31)^-0.25
    further = np.concatenate(list(Recipe((rows,), (5,), "pareto").draw()))
    assert set(further[beyond].tolist()) == {-(2**31) % rows}
    assert further[~beyond][:1000].tolist() == [int(value) % rows for value in drawn[~beyond][:1000]]


@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_pieces_of_the_stream_are_the_stream(distribution, monkeypatch):
    recipe = Recipe(ROWS, HOTNESS, distribution)
    whole = np.concatenate(list(recipe.draw()))
    monkeypatch.setattr("dlrm.data.multi_hot.recipe._PIECE_IDS", 777)
    np.testing.assert_array_equal(np.concatenate(list(recipe.draw())), whole)
    assert len(whole) == recipe.starts[-1] == sum(n * (k - 1) for n, k in zip(ROWS, HOTNESS, strict=True))


def test_another_seed_gives_other_bags_and_the_stored_id_stays_first():
    ids_BF = torch.from_numpy(random_ids(ROWS, 100))
    first, second = (bags_of(ROWS, HOTNESS, "uniform", seed).expand(ids_BF) for seed in (0, 1))
    starts = list(itertools.accumulate(HOTNESS[:-1], initial=0))
    assert torch.equal(first[:, starts], ids_BF)
    assert torch.equal(second[:, starts], ids_BF)
    assert not torch.equal(first, second)


def test_large_tables_are_drawn_into_a_file_once_and_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 1000)
    in_memory = lookup._drawn(Recipe(ROWS, HOTNESS), lambda _: None)
    ids_BF = torch.from_numpy(random_ids(ROWS, 100))
    first = bags_of(ROWS, HOTNESS, "uniform", cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.i32")
    np.testing.assert_array_equal(np.fromfile(file, "<i4"), in_memory)
    written = file.stat().st_mtime_ns
    second = bags_of(ROWS, HOTNESS, "uniform", cache_dir=tmp_path)
    assert file.stat().st_mtime_ns == written
    assert torch.equal(first.expand(ids_BF), second.expand(ids_BF))


def test_other_parameters_have_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 0)
    for distribution, seed, hotness in [("uniform", 0, 3), ("pareto", 0, 3), ("uniform", 1, 3), ("uniform", 0, 4)]:
        bags_of((50,), (hotness,), distribution, seed, tmp_path)
    assert len(list(tmp_path.glob("*.i32"))) == 4


def test_processes_that_come_together_draw_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 0)
    drawn, made = [], []

    def make():
        made.append(LookupBags(Recipe((100_000,), (9,)), str(tmp_path), drawn.append))

    threads = [threading.Thread(target=make) for _ in range(4)]  # flock holds between open files, also of one process
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert sum(drawn) == 800_000


def test_what_a_killed_drawing_left_is_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 0)
    recipe = Recipe((1000,), (3,))
    (tmp_path / f"mlperf_multi_hot_{recipe.digest}.i32.unfinished").write_bytes(b"torn" * 10_000)
    bags = LookupBags(recipe, str(tmp_path))
    (table,) = recipe_tables((1000,), (3,), "uniform")
    np.testing.assert_array_equal(bags.expand(torch.arange(1000)[:, None]).numpy(), table)


def test_lookup_tables_that_cannot_be_kept_are_a_setup_error(tmp_path, monkeypatch):
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"file/x.*name another folder as cache_dir"):
        bags_of((50,), (3,), "uniform", cache_dir=tmp_path / "file" / "x")
    usage = lookup.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(lookup.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(SetupError, match=r"need 0.0 GiB there, 0.0 GiB are free"):
        bags_of((50,), (3,), "uniform", cache_dir=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(lookup, "IN_MEMORY_BYTES", 0)
    bags_of((50,), (3,), "uniform", cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.i32")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(SetupError, match="396 bytes instead of 400; delete it"):
        bags_of((50,), (3,), "uniform", cache_dir=tmp_path)


def test_a_table_beyond_int32_is_refused():
    with pytest.raises(ConfigError, match=r"cat_1 has 2,147,483,648 rows"):
        Recipe.of(Schema.numbered(1, [5, 2**31], [2, 2]), "uniform", 0)


# Hashed bags


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_the_compiled_loop_gives_the_bags_of_torchs_operations(distribution, dtype):
    bags = HashedBags(Schema.numbered(0, ROWS, HOTNESS), distribution=distribution, seed=3)
    ids_BF = torch.from_numpy(random_ids(ROWS, 2000)).to(dtype)
    ids_BF[0], ids_BF[1] = -1, 2**31 - 1
    ids_BS = bags.expand(ids_BF)
    assert ids_BS.dtype == dtype
    assert torch.equal(ids_BS, bags.expand_by_torch(ids_BF))


def test_hashed_bags_of_tables_beyond_int32():
    schema = Schema.numbered(0, [2**40], [50])
    bags = HashedBags(schema, distribution="uniform", seed=0)
    ids_BF = torch.randint(0, 2**40, (2000, 1), generator=torch.Generator().manual_seed(0))
    ids_BS = bags.expand(ids_BF)
    assert torch.equal(ids_BS, bags.expand_by_torch(ids_BF))
    assert ids_BS.min() >= 0
    assert 0.999 * 2**40 < ids_BS.max() < 2**40


def test_a_hashed_bag_is_a_function_of_its_feature_and_id_alone():
    short = HashedBags(Schema.numbered(0, (50, 1000), (2, 3)), distribution="uniform", seed=0)
    long = HashedBags(Schema.numbered(0, (7, 1000), (4, 6)), distribution="uniform", seed=0)
    ids_BF = torch.from_numpy(random_ids((7, 1000), 300))
    assert torch.equal(short.expand(ids_BF)[:, 2:], long.expand(ids_BF)[:, 4:7])
    permuted = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(short.expand(ids_BF)[permuted], short.expand(ids_BF[permuted]))


def expanded(rows, hotness, distribution="uniform", seed=0):
    """The bags of every id, features side by side: (rows, hotness) arrays."""
    bags = HashedBags(Schema.numbered(0, rows, hotness), distribution=distribution, seed=seed)
    ids_BF = torch.arange(max(rows))[:, None].expand(-1, len(rows)).contiguous()
    return [ids_BL[:n].numpy() for n, ids_BL in zip(rows, bags.expand(ids_BF).split(hotness, dim=1), strict=True)]


def p_value_of_independence(left, right, cells=10):
    """Chi-square over cells of pairs, with the pairs expected to be uniform."""
    counts = np.histogram2d(left, right, bins=cells, range=[[0, 1], [0, 1]])[0]
    expected = len(left) / cells**2
    return chi2.sf(((counts - expected) ** 2 / expected).sum(), cells**2 - 1)


@pytest.mark.parametrize("rows", [3, 36, 976, 20_265])
def test_hashed_ids_are_uniform_over_their_table(rows):
    hotness = 1 + 200_000 // rows
    (bags,) = expanded((rows,), (hotness,))
    counts = np.bincount(bags[:, 1:].ravel(), minlength=rows)
    assert len(counts) == rows
    expected = counts.sum() / rows
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), rows - 1) > 1e-3


def test_hashed_ids_are_independent_between_positions_tables_ids_and_seeds():
    rows = 100_000
    first, second = (bags / rows for bags in expanded((rows, rows), (4, 3)))
    (reseeded,) = expanded((rows,), (4,), seed=1)
    pairs = [
        *((first[:, i], first[:, j]) for i, j in itertools.combinations(range(4), 2)),
        *((first[:, i], second[:, i]) for i in (1, 2)),
        *((first[:-lag, 1], first[lag:, 1]) for lag in (1, 2, 1000)),
        (first[:-1, 1], first[1:, 2]),
        (first[:, 1], reseeded[:, 1] / rows),
    ]
    values = [p_value_of_independence(left, right) for left, right in pairs]
    assert min(values) > 1e-3
    assert max(values) < 1 - 1e-6  # nor more even than chance


@pytest.mark.parametrize("rows", [50, 5000, 300_000])
def test_hashed_pareto_ids_have_the_recipes_distribution(rows):
    hotness = 1 + 300_000 // rows
    (table,) = recipe_tables((rows,), (hotness,), "pareto")
    (bags,) = expanded((rows,), (hotness,), "pareto")
    assert ks_2samp(bags[:, 1:].ravel(), table[:, 1:].ravel()).pvalue > 1e-3


# Data sets


def one_hot_dataset(ids_BF, rows):
    schema = Schema.numbered(2, rows)
    count = len(ids_BF)

    def split(name):
        labels = (torch.arange(count) % 2)[:, None]
        return InMemorySource(name, schema, torch.rand(count, 2), torch.from_numpy(ids_BF), labels)

    return Dataset(split("train"), split("validation"), split("test"))


@pytest.mark.parametrize("kind", [MlperfMultiHot, HashedMultiHot])
def test_a_multi_hot_data_set_holds_a_bag_for_every_id(kind):
    one_hot = one_hot_dataset(random_ids(ROWS, 64), ROWS)
    dataset = multi_hot_dataset(one_hot, kind(hotness=HOTNESS))
    index_B = torch.tensor([5, 3, 63, 5])
    assert [feature.hotness for feature in dataset.schema.sparse] == list(HOTNESS)
    for split, plain in [(dataset.train, one_hot.train), (dataset.test, one_hot.test)]:
        samples, stored = split.read(index_B), plain.read(index_B)
        assert (split.name, split.num_samples, samples.lengths_BF) == (plain.name, 64, None)
        assert torch.equal(samples.dense_BN, stored.dense_BN)
        assert torch.equal(samples.labels_BT[:, 0], stored.labels_BT[:, 0])
        bags = samples.ids_BS.split(HOTNESS, dim=1)
        assert torch.equal(torch.stack([bag[:, 0] for bag in bags], dim=1), stored.ids_BS)
        assert all(((bag >= 0) & (bag < n)).all() for bag, n in zip(bags, ROWS, strict=True))
        assert split.locate(7, "cat_0") == plain.locate(7, "cat_0")
    assert dataset.train.bags is dataset.validation.bags is dataset.test.bags


@pytest.mark.parametrize("kind", [MlperfMultiHot, HashedMultiHot])
@pytest.mark.parametrize("bad", [-1, 30_000, 2**62])
def test_an_id_outside_of_its_table_stays_and_is_named_by_the_check(kind, bad):
    ids_BF = random_ids(ROWS, 10)
    ids_BF[4, 3] = bad
    source = multi_hot_dataset(one_hot_dataset(ids_BF, ROWS), kind(hotness=HOTNESS)).train
    index_B = torch.arange(10)
    samples = source.read(index_B)
    start = sum(HOTNESS[:3])
    assert samples.ids_BS[4, start] == ids_BF[4, 3]
    further = samples.ids_BS[4, start + 1 : start + 100]
    assert ((further >= 0) & (further < 30_000)).all()
    with pytest.raises(DataError, match=rf"row 5, column cat_3: id {ids_BF[4, 3]} is outside"):
        SampleCheck(source)(samples, index_B)


@pytest.mark.parametrize("kind", [MlperfMultiHot, HashedMultiHot])
def test_the_further_ids_of_an_id_outside_are_those_of_the_id_modulo_the_rows(kind):
    ids_BF = random_ids(ROWS, 10)
    beyond = ids_BF + 3 * np.array(ROWS)
    inside, outside = (
        multi_hot_dataset(one_hot_dataset(ids, ROWS), kind(hotness=HOTNESS)).train.read(torch.arange(10)).ids_BS
        for ids in (ids_BF, beyond)
    )
    starts = list(itertools.accumulate(HOTNESS[:-1], initial=0))
    outside[:, starts] %= torch.tensor(ROWS)
    assert torch.equal(inside, outside)


def test_one_hotness_is_meant_for_all_tables_and_another_number_is_refused():
    one_hot = one_hot_dataset(random_ids(ROWS, 4), ROWS)
    assert multi_hot_dataset(one_hot, HashedMultiHot(hotness=(3,))).schema.ids_per_sample == 3 * len(ROWS)
    with pytest.raises(ConfigError, match=r"data\.multi_hot\.hotness: has 2 entries, the data has 6 sparse features"):
        multi_hot_dataset(one_hot, HashedMultiHot(hotness=(3, 2)))


def test_threads_share_bags():
    source = multi_hot_dataset(one_hot_dataset(random_ids(ROWS, 2000), ROWS), MlperfMultiHot(hotness=HOTNESS)).train
    index_B = torch.arange(2000)
    alone, together = source.read(index_B).ids_BS, [None] * 4

    def read(i):
        together[i] = source.read(index_B).ids_BS

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(ids_BS, alone) for ids_BS in together)
