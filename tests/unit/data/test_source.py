import pytest
import torch

from dlrm.config.data import PlantedData, RandomData
from dlrm.config.data.packed import HashedMultiHot
from dlrm.data.in_memory import InMemorySource
from dlrm.data.multi_hot.dataset import multi_hot_dataset
from dlrm.data.synthetic.noise import NoiseSource
from dlrm.data.synthetic.planted import PlantedSource
from dlrm.schema import Schema
from tests.support.training import tiny_dataset, tiny_source


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (PlantedSource(PlantedData(rows=(5, 7)), "test"), "planted test data"),
        (NoiseSource(RandomData(rows=(5, 7)), "validation"), "random validation data"),
        (tiny_source(50), "tiny"),
    ],
    ids=["planted", "random", "in memory"],
)
def test_a_sample_that_lies_in_no_file_is_located_by_its_source_and_number(source, name):
    for column in (source.schema.dense[0], source.schema.sparse[0].name, "label"):
        assert source.locate(0, column) == (name, 1)
        assert source.locate(41, column) == (name, 42)


@pytest.mark.parametrize("ids_type", [torch.uint8, torch.int32, torch.int64])
def test_what_lies_in_memory_is_read_in_the_order_asked_for_and_as_a_copy(ids_type):
    dense, ids, labels = torch.randn(10, 3), torch.randint(0, 9, (10, 2)).to(ids_type), torch.arange(10) % 2
    source = InMemorySource("memory", Schema.numbered(3, rows=[9, 9]), dense, ids, labels.to(torch.uint8)[:, None])
    index = torch.tensor([7, 0, 7, 3])
    samples = source.read(index)
    assert torch.equal(samples.dense_BN, dense[index])
    assert torch.equal(samples.ids_BS, ids[index].long())
    assert torch.equal(samples.labels_BT[:, 0], labels[index].float())
    samples.dense_BN.zero_()
    assert dense.all()


def test_the_logits_of_what_was_not_drawn_by_a_hidden_model_are_not_known():
    for source in (tiny_source(5), NoiseSource(RandomData(rows=(5, 7)), "train")):
        assert source.true_logits(torch.arange(5)) is None


def test_a_multi_hot_source_has_all_that_is_special_to_the_one_hot_one():
    one_hot = tiny_dataset(9)
    one_hot.train.bad_rows, one_hot.train.null_id = "hash", -7
    one_hot.train.true_logits = lambda index_B: index_B.double() / 9
    source = multi_hot_dataset(one_hot, HashedMultiHot(hotness=(2,))).train
    assert (source.name, source.num_samples) == (one_hot.train.name, one_hot.train.num_samples)
    assert (source.bad_rows, source.null_id) == ("hash", -7)
    assert torch.equal(source.true_logits(torch.arange(9)), one_hot.train.true_logits(torch.arange(9)))
