"""torchrec's DLRMs as facebookresearch/dlrm makes them, and configurations of this project for the same models."""

import torch
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.models.dlrm import DLRM, DLRM_DCN, DLRM_Projection, DLRMTrain
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from dlrm.config import load_config
from dlrm.schema import Schema

ROWS = (30, 7, 50, 4, 11, 13, 9, 21, 5, 6, 17, 8)  # more than ten: as text cat_10 comes before cat_2
DIM, DENSE = 8, 5
SCHEMA = Schema.numbered(DENSE, ROWS)
OPTIONS = (
    "data.kind=random", f"data.rows={','.join(map(str, ROWS))}", f"data.num_dense={DENSE}",
    "data.train_samples=100", "data.validation_samples=10", "data.test_samples=10",
    f"model.embedding_dim={DIM}", f"model.bottom_mlp=16,{DIM}", "model.top_mlp=24,12,1",
)  # fmt: skip
INTERACTIONS = {
    "dot": ("model.interaction.kind=dot",),
    "dcn": ("model.interaction={kind: dcn, layers: 2, rank: 6}",),
    "projection": ("model.interaction={kind: projection, branch1: [20, 16], branch2: [24]}",),
}


def config_of(kind, *options):
    return load_config(None, [*OPTIONS, *INTERACTIONS.get(kind, (f"model.interaction.kind={kind}",)), *options])


def their_model(kind, seed=0, order=None):
    """DLRMTrain with random weights, biases and factors that are 0 by default included."""
    torch.manual_seed(seed)
    names = [f"cat_{i}" for i in order or range(len(ROWS))]
    tables = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{name}", embedding_dim=DIM, num_embeddings=ROWS[int(name[4:])], feature_names=[name]
            )
            for name in names
        ]
    )
    common = {
        "embedding_bag_collection": tables,
        "dense_in_features": DENSE,
        "dense_arch_layer_sizes": [16, DIM],
        "over_arch_layer_sizes": [24, 12, 1],
    }
    if kind == "dot":
        model = DLRM(**common)
    elif kind == "dcn":
        model = DLRM_DCN(**common, dcn_num_layers=2, dcn_low_rank_dim=6)
    else:
        model = DLRM_Projection(
            **common, interaction_branch1_layer_sizes=[20, 16], interaction_branch2_layer_sizes=[24]
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / 4)
    return DLRMTrain(model)


def some_batch(samples=64, seed=1):
    """Dense features and bags of 0 to 3 ids."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(samples, DENSE, generator=generator)
    lengths = torch.randint(0, 4, (len(ROWS), samples), generator=generator)
    ids = [torch.randint(0, ROWS[i], (int(lengths[i].sum()),), generator=generator) for i in range(len(ROWS))]
    keys = [f"cat_{i}" for i in range(len(ROWS))]
    return dense, KeyedJaggedTensor(keys, torch.cat(ids), lengths=lengths.flatten())


def their_logits(model, batch):
    with torch.no_grad():
        return model.model.eval()(*batch)
