"""The model of facebookresearch/dlrm's torchrec trainer, name by name, as the model of this project.

There it is torchrec.models.dlrm's DLRM, DLRM_DCN or DLRM_Projection inside of DLRMTrain; wrappers
(DistributedModelParallel, DistributedDataParallel, torch.compile) add words to the names, which are left out here. The
three compute what :mod:`dlrm.models` computes with the interactions dot, dcn and projection:

====================================================================  ================================
there                                                                 here
====================================================================  ================================
``sparse_arch.embedding_bag_collection.embedding_bags.t_<f>.weight``  ``tables.<f>.weight``
``dense_arch.model._mlp.<i>._linear.*``                               ``bottom_mlp.linears.<i>.*``
``inter_arch.crossnet.*``                                             ``interaction.crossnet.*``
``inter_arch.interaction_branch<k>.model._mlp.<i>._linear.*``         ``interaction.branch<k>.linears.<i>.*``
``over_arch.model.0._mlp.<i>._linear.*``, ``over_arch.model.1.*``     ``top_mlp.linears.<i>.*``, the last one of them
====================================================================  ================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dlrm.checkpoint.tensors import model_shapes
from dlrm.config.model import DlrmModel, DotInteraction, ModelConfig
from dlrm.format import escaped
from dlrm.models.build import build_model
from dlrm.schema import Schema
from dlrm.table_names import table_name

_PARTS = ("sparse_arch", "dense_arch", "inter_arch", "over_arch")
_WRAPPERS = ("module", "_dmp_wrapped_module", "_orig_mod")
_TABLES = "sparse_arch.embedding_bag_collection.embedding_bags."
_NO_WEIGHTS = ("inter_arch.triu_indices",)
"""Buffers of some versions that follow from the sizes."""
_MODELS = {"dot": "DLRM", "dcn": "DLRM_DCN", "projection": "DLRM_Projection"}


@dataclass(frozen=True)
class Translated:
    """A state dict under this project's names.

    Attributes:
        weights: float32 by name, in the order of this project's model; notes: what else to know, in words.
    """

    weights: dict[str, torch.Tensor]
    notes: list[str]


def translate(found: Mapping[str, Any], config: ModelConfig, schema: Schema) -> tuple[Translated, list[str]]:
    """Give a state dict this project's names.

    Args:
        found: as it was read.
        config: of the model that is wanted.
        schema: its features.

    Returns:
        The weights; and all in which the two do not fit, in words: nothing is to be used then.

    Raises:
        ConfigError: the configuration does not fit the schema.
    """
    if not isinstance(config, DlrmModel):
        return Translated({}, []), [f"no model there is a {config.kind}: choose model.kind dlrm"]
    wanted = model_shapes(build_model(config, schema, seed=0))
    plain, problems = _without_wrappers(found)
    differences = [*unlike(config, schema), *problems, *_other_interaction(plain, config)]
    if differences:  # names would all be wrong as well, which helps nobody
        return Translated({}, []), differences
    names = {name: _their_name(name, plain, config) for name in wanted}
    weights, notes = {}, []
    for name, shape in wanted.items():
        value = plain.pop(names[name], None)
        if problem := _unusable(value, shape):
            differences.append(f"{escaped(names[name])} ({escaped(name)}): {problem}")
            continue
        if value.dtype != torch.float32:
            notes.append(f"{escaped(name)} was {str(value.dtype).removeprefix('torch.')} and is float32 now")
        weights[name] = value.detach().to(torch.float32)
    differences += [f"{escaped(name)} is in the file, and nothing of this model" for name in plain]
    return Translated(weights, [*notes, *_order(found, schema)]), differences


def unlike(config: DlrmModel, schema: Schema) -> Iterator[str]:
    """What a model of this configuration computes that none of facebookresearch/dlrm's does, in words."""
    if not schema.dense:
        yield "the data have no dense features, every model there has a bottom MLP on some"
    if config.interaction.kind not in _MODELS:
        yield f"no model there has the interaction {config.interaction.kind}: choose one of {', '.join(_MODELS)}"
    if isinstance(config.interaction, DotInteraction) and config.interaction.self_interaction:
        yield "model.interaction.self_interaction is true, no model there multiplies a vector with itself"
    if config.embedding.kind != "full" or any(table.embedding for table in config.tables.values()):
        yield "model.embedding is not full everywhere, tables there have a row for each id"
    if config.shared_tables:
        yield "model.shared_tables is set, each feature has a table of its own there"
    means = [name for name, table in config.tables.items() if table.pooling == "mean"]
    if config.pooling == "mean" or means:
        yield f"model.{'pooling' if config.pooling == 'mean' else f'tables.{means[0]}.pooling'} is mean, tables there sum"
    if len(schema.tasks) > 1:
        yield f"the data have {len(schema.tasks)} tasks, models there have one logit"
    if config.heads.kind != "shared_bottom":
        yield f"model.heads.kind is {config.heads.kind}, models there have one MLP"
    elif config.heads.tower:
        yield "model.heads.tower is set, no model there has towers"
    if len(config.top_mlp) < 2:
        yield "model.top_mlp has one layer, over_arch has at least two"


def _without_wrappers(found: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Names beginning with the part of the model, and what is wrong with names."""
    plain: dict[str, Any] = {}
    problems = []
    for full_name, value in found.items():
        words = [word for word in full_name.split(".") if word not in _WRAPPERS]
        start = next((i for i, word in enumerate(words) if word in _PARTS), 0)
        name = ".".join(words[start:])
        if name in _NO_WEIGHTS:
            continue
        if name in plain:
            problems.append(f"{escaped(name)} is in the file twice")
        plain[name] = value
    if not any(name.startswith(_TABLES) for name in plain):
        problems.append(f"no name holds {_TABLES}: this is no state dict of torchrec's DLRM")
    return plain, problems


def _other_interaction(plain: Mapping[str, Any], config: DlrmModel) -> Iterator[str]:
    kind = "dot"
    if any(name.startswith("inter_arch.crossnet.") for name in plain):
        kind = "dcn"
    elif any(name.startswith("inter_arch.interaction_branch") for name in plain):
        kind = "projection"
    if config.interaction.kind in _MODELS and kind != config.interaction.kind:
        yield f"it is a {_MODELS[kind]}, which is model.interaction.kind {kind}, not {config.interaction.kind}"


def _their_name(name: str, plain: Mapping[str, Any], config: DlrmModel) -> str:
    if name.startswith("tables."):
        table = table_name(name.removeprefix("tables.").removesuffix(".weight"))
        as_is = f"{_TABLES}{table}.weight"
        return as_is if as_is in plain else f"{_TABLES}t_{table}.weight"
    last = f"top_mlp.linears.{len(config.top_mlp) - 1}."
    if name.startswith(last):
        return f"over_arch.model.1.{name.removeprefix(last)}"
    name = re.sub(r"linears\.(\d+)", r"_mlp.\1._linear", name)
    name = re.sub(r"^interaction\.branch(\d)", r"inter_arch.interaction_branch\1.model", name)
    name = re.sub(r"^interaction\.", "inter_arch.", name)
    return re.sub(r"^bottom_mlp", "dense_arch.model", re.sub(r"^top_mlp", "over_arch.model.0", name))


def _unusable(value: Any, shape: tuple[int, ...]) -> str:
    """What keeps a value from being a weight of ``shape``; empty if nothing does."""
    if value is None:
        return "is not in the file"
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f"is a {escaped(type(value).__name__)}, no plain tensor: gather it before saving"
    if tuple(value.shape) != shape:
        return f"has shape {list(value.shape)} in the file, {list(shape)} here"
    if value.layout != torch.strided or value.device.type != "cpu" or not value.is_floating_point():
        return f"is {value.dtype} {value.layout} on {value.device.type}, no dense tensor of floating-point numbers"
    return ""


def _order(found: Mapping[str, Any], schema: Schema) -> Iterator[str]:
    """The weights of interaction and top MLP depend on the order of the tables, which names do not tell."""
    tables = [name.split(".")[-2].removeprefix("t_") for name in found if _TABLES in name]
    wanted = [feature.name.removeprefix("t_") for feature in schema.sparse]
    if tables != wanted and sorted(tables) == sorted(wanted):
        yield (
            "the file lists the tables in another order than the data has them (safetensors files and sharded models "
            "always may): predictions agree only if the model was built with the tables in the data's order"
        )
