"""Entries of the catalogues: what each figure is, in which unit.

GB are 10^9 bytes, links count one direction, rates are dense (no sparsity). A figure is what its source says, unless the
entry names it in ``unchecked``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]
Text = Annotated[str, Field(min_length=1)]


class Entry(BaseModel):
    """An entry of a catalogue: frozen, with all keys that it must have and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    source: Text
    """Document and year, or address, of every figure that ``unchecked`` does not name."""
    unchecked: tuple[str, ...] = ()
    """Figures that are known from memory, set by likeness or assumed."""

    @model_validator(mode="after")
    def _unchecked_are_figures(self) -> Self:
        for name in self.unchecked:
            if name not in type(self).model_fields:
                raise ValueError(f"unchecked: {name} is no figure of this entry")
        return self


class Device(Entry):
    """A kind of GPU."""

    words: Annotated[tuple[str, ...], Field(min_length=1)]
    """All of them are in the name that CUDA gives it, in capitals."""
    memory_gb: Positive
    """Size of its memory."""
    memory_gb_s: Positive
    """Bandwidth of its memory."""
    fp32_tflops: Positive
    """Peak rate without tensor cores."""
    tf32_tflops: Positive
    """Peak rate of float32 products on tensor cores."""
    bf16_tflops: Positive
    """Peak rate of bfloat16 and float16 products."""
    l2_mb: Positive
    """Size of its L2 cache, 10^6 bytes."""
    link: Text
    """The network that ties it to its neighbours (NVLink)."""
    link_gb_s: Positive
    """Bandwidth to all its neighbours together."""
    link_devices: Count
    """Devices that reach each other by it: 8 of a host, 72 of a rack; 2 or 4 under a bridge; 1: none."""
    host_gb_s: Positive
    """Bandwidth to its host's memory."""
    network: str | None
    """The network to other hosts of its maker's own server; None: it is in none."""
    network_gbit_s: Positive | None
    """Its share of that server's adapters."""
    power_w: Positive
    """The most that the device takes."""
    server_power_w: Positive | None
    """Its share of the most that its maker's own server takes."""
    price_usd_hour: Positive | None
    """List price, on demand, of one cloud. It changes; other clouds ask other prices."""
    price_date: str | None
    """Year and month of the price."""
    price_source: str | None
    """Whose price it is."""

    @property
    def name(self) -> str:
        """``H100``, ``A100 80GB PCIE``."""
        return " ".join(self.words)

    @property
    def network_gb_s(self) -> float | None:
        """Bandwidth to other hosts."""
        return None if self.network_gbit_s is None else self.network_gbit_s / 8

    def fits(self, cuda_name: str) -> bool:
        """Whether a device of this name is of this kind; a part of a device (MIG) is of none."""
        words = set(re.split(r"[^A-Z0-9]+", cuda_name.upper()))
        return "MIG" not in words and words.issuperset(self.words)

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if (self.network is None) != (self.network_gbit_s is None):
            raise ValueError("network and network_gbit_s go together: give both or neither")
        if self.price_usd_hour is not None and not (self.price_date and self.price_source):
            raise ValueError("price_usd_hour needs a price_date and a price_source")
        return self


class Network(Entry):
    """A kind of link between devices."""

    title: Text
    """For people."""
    kind: Literal["nvlink", "infiniband", "ethernet", "efa"]
    adapter_gbit_s: Positive
    """Line rate of one adapter (NVLink: of the device)."""
    device_gbit_s: Positive
    """Line rate for one device in the usual server."""
    latency_us: Positive
    """One hop of a small message."""
    all_reduce_us: Positive | None
    """NCCL's all-reduce of a few bytes, over the devices that ``measured`` says."""
    all_to_all_us: Positive | None
    """NCCL's all-to-all of a few bytes, over the devices that ``measured`` says."""
    efficiency: Annotated[float, Field(gt=0, le=1)]
    """What large transfers reach of the line rate: send and receive, all-to-all, reduce-scatter."""
    all_reduce_efficiency: Annotated[float, Field(gt=0, le=2)]
    """Bus bandwidth of a large all-reduce over the line rate; above 1 where switches add."""
    measured: str | None
    """What the figures were measured on."""

    @property
    def device_gb_s(self) -> float:
        """Line rate for one device."""
        return self.device_gbit_s / 8


class ReferencePoint(Entry):
    """A speed that somebody measured and published."""

    name: Text
    round: Text
    """Of MLPerf Training."""
    submitter: Text
    system: Text
    """Its name in the round's results."""
    device: Text
    """A name that finds the device in the catalogue."""
    gpus: Count
    gpus_per_host: Count
    global_batch_size: Count | None
    """Samples a step, of all GPUs; None: not known."""
    samples_s: Positive
    """Samples a second of all GPUs, of training alone."""
    samples_s_with_evaluation: Positive
    """Trained samples a second of all GPUs, over the time of training and evaluation."""
    minutes: Positive
    """To the target."""
    logs: Count
    """Runs that the figures are medians of."""
    network: str | None
    """Between hosts or, where there is an NVLink domain of several, between those; None: of no use on so few."""
    software: Text
    precision: Text
    """Of matrix products."""
    sharding: Literal["auto", "hier_auto"]
    """The submission's own plan; reference_points.yaml has the words."""
    replicated_rows: Annotated[int, Field(ge=0)]
    """Tables of up to so many rows are on every GPU."""
    note: str | None = None

    @property
    def hosts(self) -> int:
        """Hosts of the system."""
        return self.gpus // self.gpus_per_host

    @property
    def samples_s_per_gpu(self) -> float:
        """Samples a second of one GPU, of training alone."""
        return self.samples_s / self.gpus

    @property
    def step_ms(self) -> float | None:
        """Milliseconds a step of training takes."""
        return None if self.global_batch_size is None else 1000 * self.global_batch_size / self.samples_s

    @model_validator(mode="after")
    def _hosts_are_whole(self) -> Self:
        if self.gpus % self.gpus_per_host:
            raise ValueError(f"{self.gpus} gpus are no multiple of gpus_per_host, {self.gpus_per_host}")
        return self
