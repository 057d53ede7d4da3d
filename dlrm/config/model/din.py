"""Options of :mod:`dlrm.models.din`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dlrm.config.base import Section, Sizes
from dlrm.config.model.base import ModelSection
from dlrm.config.model.heads import Heads, SharedBottom, check_top_mlp


class LocalActivation(Section):
    """The local activation unit: an MLP weighs each id of a history by itself and the candidate (section 4.3, equation 3).

    Its input are both vectors, their difference and their product; the weights are not normalised (no softmax).
    """

    kind: Literal["local_activation"] = "local_activation"
    hidden: Sizes = (36,)
    """Sizes of the hidden layers of the MLP that gives the weight; ReLU follows each."""


class SumPooling(Section):
    """The plain sum over a history, whatever the candidate: the paper's BaseModel, to compare with (section 4.2)."""

    kind: Literal["sum"] = "sum"


Attention = Annotated[LocalActivation | SumPooling, Field(discriminator="kind")]


class DinModel(ModelSection):
    """Deep interest network (arXiv:1706.06978): a sample's history as the candidate sees it, then an MLP on all vectors.

    The data say which columns are histories (data.sequences) and of which column, the candidate. Both share its table.
    """

    unpooled_histories: ClassVar[bool] = True

    kind: Literal["din"] = "din"
    attention: Attention = LocalActivation()
    top_mlp: Sizes = (200, 80, 1)
    """Layer sizes of the MLP on all vectors and the dense features, its output (1: a logit a task) included."""
    heads: Heads = SharedBottom()

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        check_top_mlp(self.top_mlp, self.heads)
        return self
