"""What ends a model, from its interaction to the logits, each a variant chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dlrm.config.base import PositiveInt, Section, SizesIfAny


class SharedBottom(Section):
    """Several tasks share all but their last layers."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    tower: SizesIfAny = ()
    """Sizes of the hidden layers that each task has for itself. None: the last layer has a logit a task."""

    @property
    def stands_on_hidden(self) -> str:
        """What of it needs a hidden layer below, in words; empty if nothing does."""
        return "heads.tower" if self.tower else ""


class _Mixed(Section):
    tower: SizesIfAny = ()
    """Sizes of the hidden layers that each task has for itself, on its mixture. None: a linear layer a task."""

    @property
    def stands_on_hidden(self) -> str:
        """What of it needs a hidden layer, in words."""
        return "an expert of heads"


class Mmoe(_Mixed):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): several MLPs in the place of one.

    Tasks share them, and each weighs their outputs, sample by sample, with a softmax of its own.
    """

    kind: Literal["mmoe"] = "mmoe"
    experts: PositiveInt = 4
    """So many MLPs, each with the hidden layers that the model's own MLP (top_mlp, deep_mlp) would have."""


class Ple(_Mixed):
    """Progressive layered extraction (Tang et al., RecSys 2020): MLPs of each task, and some that all share.

    Each task weighs the outputs of its own and of the shared ones with a softmax. The next level's MLPs stand on these
    mixtures. One level is customized gate control.
    """

    kind: Literal["ple"] = "ple"
    levels: PositiveInt = 2
    """Levels, each with MLPs of its own. Every one has the hidden layers that the model's own MLP would have."""
    task_experts: PositiveInt = 2
    """MLPs of each task on a level."""
    shared_experts: PositiveInt = 2
    """MLPs on a level that all tasks share."""


Heads = Annotated[SharedBottom | Mmoe | Ple, Field(discriminator="kind")]


def check_top_mlp(sizes: tuple[int, ...], heads: Heads) -> None:
    """See that the layers of ``top_mlp`` end with a logit and have what the heads stand on.

    Raises:
        ValueError: they do not.
    """
    if sizes[-1] != 1:
        raise ValueError(f"top_mlp ends with {sizes[-1]}: the last layer gives the logit and must be 1")
    if heads.stands_on_hidden and len(sizes) == 1:
        raise ValueError(f"{heads.stands_on_hidden} needs a hidden layer of top_mlp, as in 256,1")
