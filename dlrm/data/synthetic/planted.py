"""Planted data: Criteo-shaped samples, drawn on the fly, whose labels come from a hidden model that is known.

Because the true click probability of every sample is known, so is the best AUC that any model can reach: that of
:meth:`PlantedSource.true_logits` on the same samples. A trainer that works comes close to it; one that loses samples,
shifts labels or updates the wrong rows does not.

The hidden model is a factorisation machine (Rendle, "Factorization machines", ICDM 2010, equation 1) over the ids and a
linear map of the dense features:

    logit = bias + a * sum_n f_n(s_n) + b * sum_r V_r + c * sum_{t < t'} <v_t, v_t'> + d * <V, M s>,   V = sum_t v_t

- s_n is dense feature n, standardised; f_n mixes a straight line with a V shape, which no linear model can follow.
- v_t is the hidden vector (``rank`` wide) of the id in table t. Its entries are uniform around 0 and each factor has 0.4
  times the size of the one before. An id's first-order effect is the sum of its vector: the direction in which embeddings
  move first is then one in which their products matter, so that one pass over the data is enough to find them.
- Tables and dense features differ in weight (by up to exp(4)), as the columns of a real log do.
- *Familiarity* sqrt(min(1, p / p_0)) scales the vector of an id of probability p: what is rare differs little from the
  average, so that what an id does can be learned from the samples it occurs in, however large its table is.
- a, b, c and d give each part its share of the logit's variance (``_SHARES``), together ``signal`` squared.

Ids follow Zipf's law. Id 0 is the most frequent one of its table, id 1 the next: as a vocabulary sorted by count would
number them.

Every sample is a pure function of (seed, split, index), bit for bit, in whatever portions it is read. Sums of floats
would depend on the order in which a vectorised kernel takes them, hence on the size of the portion; therefore all that
is summed here is whole numbers, small enough for float64 (float32 where said) to add them without rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from dlrm.config.data import PlantedData
from dlrm.counter_rng import random_bits, stream_key, uniform64
from dlrm.data.fingerprint import FileFingerprint
from dlrm.data.source import Dataset, Samples, Source
from dlrm.schema import Schema

Split = Literal["train", "validation", "test"]

# Shares of the variance of the logit: a, b, c, d above. A linear model reaches neither c nor d, nor the V in a.
_SHARES = (0.30, 0.48, 0.18, 0.04)
_FAMILIAR_PROBABILITY = 0.05
_WEIGHT_SPREAD = 2.0
_MAX_BEND = 0.4  # radians from the straight line (0) towards the V shape (pi / 2)
_DENSE_LEVELS = 1024
_LANES = 4  # 16-bit numbers in a draw of 64 bits
_FACTOR_DECAY = 0.4
_EFFECT_UNIT = 2.0**-6  # a lane times this is a hidden factor before weighting, about +-512
_DENSE_UNIT = 2.0**-6
_MAP_UNIT = 2.0**-4
_CHUNK_SAMPLES = 1024  # intermediate results of this many samples stay in the cache
_CALIBRATION_SAMPLES = 65_536


@dataclass(frozen=True)
class Drawn:
    """The random choices behind B samples.

    Attributes:
        ids_FB: int64 (F, B).
        levels_NB: int64 (N, B), positions in the concatenated tables of dense levels.
    """

    ids_FB: torch.Tensor
    levels_NB: torch.Tensor


class ZipfIds:
    """Zipf-distributed ids of F tables by inverse CDF, and their familiarity.

    Holds 12 bytes for each row of every distinct table size.

    Args:
        rows: table sizes.
        exponent: id i is drawn with probability ~ 1 / (i + 1)^exponent; 0 is uniform.
    """

    def __init__(self, rows: tuple[int, ...], exponent: float) -> None:
        familiarity: list[torch.Tensor] = []
        cumulative: dict[int, torch.Tensor] = {}
        start: dict[int, int] = {}
        for size in sorted(set(rows)):
            probability = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
            probability /= probability.sum()
            cumulative[size] = probability.cumsum(0)
            cumulative[size] /= cumulative[size][-1].clone()
            start[size] = sum(len(part) for part in familiarity)
            familiarity.append((probability / _FAMILIAR_PROBABILITY).clamp_(max=1).sqrt_().to(torch.float32))
        self._cumulative_F = [cumulative[size] for size in rows]
        self._familiarity = torch.cat(familiarity)
        self._start_F1 = torch.tensor([start[size] for size in rows])[:, None]

    def draw(self, uniform_FB: torch.Tensor) -> torch.Tensor:
        """The ids (int64, (F, B)) at these quantiles (float64 in [0, 1), (F, B))."""
        ids_FB = torch.empty(uniform_FB.shape, dtype=torch.int64)
        for uniform_B, cumulative, ids_B in zip(uniform_FB, self._cumulative_F, ids_FB, strict=True):
            torch.searchsorted(cumulative, uniform_B, right=True, out=ids_B)
        return ids_FB

    def familiarity(self, ids_FB: torch.Tensor) -> torch.Tensor:
        """sqrt(min(1, p / p_0)) of each id; float32 (F, B)."""
        return self._familiarity.take(ids_FB + self._start_F1)


class DenseLevels:
    """Dense features as they look after Criteo's log transform: log(1 + count) of skewed counts, many of them 0.

    Each feature takes one of ``_DENSE_LEVELS`` equally likely levels (quantiles of a rounded log-normal), so that what
    depends on a single feature is a table look-up.

    Args:
        num_dense: N.
        rank: R, width of the linear map.
        seed: of the hidden model.
    """

    def __init__(self, num_dense: int, rank: int, seed: int) -> None:
        def hidden(name: str, *shape: int) -> torch.Tensor:
            return _hidden_uniform(seed, f"dense {name}", *shape)

        quantile_K = (torch.arange(_DENSE_LEVELS, dtype=torch.float64) + 0.5) / _DENSE_LEVELS
        location_N1, scale_N1 = 3 * hidden("location", num_dense, 1) - 0.5, 1 + hidden("scale", num_dense, 1)
        count_NK = torch.exp(location_N1 + scale_N1 * torch.special.ndtri(quantile_K)).floor()
        value_NK = torch.log1p(count_NK)
        standard_NK = _standardised(value_NK)
        bend_N1 = _MAX_BEND * (2 * hidden("bend", num_dense, 1) - 1)
        effect_NK = bend_N1.cos() * standard_NK + bend_N1.sin() * _standardised(standard_NK.abs())
        sign_N1 = torch.where(hidden("sign", num_dense, 1) < 0.5, -1.0, 1.0)
        weight_N1 = _spread(hidden("weight", num_dense, 1)) * sign_N1
        self._value = value_NK.to(torch.float32).flatten()
        self._standard = (standard_NK / _DENSE_UNIT).round().flatten()
        self._effect = (weight_N1 * effect_NK / _DENSE_UNIT).round().flatten()
        self._map_RN = ((2 * hidden("map", rank, num_dense) - 1) / _MAP_UNIT).round()
        self._start_N1 = torch.arange(num_dense)[:, None] * _DENSE_LEVELS

    def draw(self, lanes_NB: torch.Tensor) -> torch.Tensor:
        """Positions of levels (int64, (N, B)) from 16 random bits each (int16, (N, B))."""
        # The low bits of a lane, as a number 0 .. _DENSE_LEVELS - 1 (a power of two).
        return (lanes_NB & (_DENSE_LEVELS - 1)) + self._start_N1

    def values(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """What the model sees; float32 (N, B)."""
        return self._value.take(levels_NB)

    def effects(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """Sum of f_n over the features; float64 (B,), whole numbers."""
        return self._effect.take(levels_NB).sum(0)

    def mapped(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """M s; float64 (R, B), whole numbers."""
        return self._map_RN @ self._standard.take(levels_NB)


class HiddenModel:
    """What samples look like and how likely each is a click; shared by the splits of a data set.

    Building it draws 65,536 samples of a stream of their own to set the scale of each part and the bias: the same on
    every rank.
    """

    def __init__(self, config: PlantedData) -> None:
        self._seed = config.seed
        self._num_dense, self._num_sparse, self._rank = config.num_dense, len(config.rows), config.rank
        self._zipf = ZipfIds(config.rows, config.zipf_exponent)
        self.dense = DenseLevels(config.num_dense, config.rank, config.seed)
        self._effects_key = stream_key(config.seed, "planted", "hidden", "effects")
        self._draws = -(-config.rank // _LANES)
        first_row_F = torch.tensor([0, *config.rows[:-1]]).cumsum(0)
        self._first_draw_F11 = (first_row_F * self._draws)[:, None, None]
        weight_F = _spread(_hidden_uniform(config.seed, "table weight", self._num_sparse))
        scale_FR = _EFFECT_UNIT * weight_F[:, None] * _FACTOR_DECAY ** torch.arange(config.rank)
        self._scale_FR1 = scale_FR.to(torch.float32)[:, :, None]
        self._centre_FR1 = torch.zeros(self._num_sparse, config.rank, 1)
        self._calibrate(config.signal, config.click_rate)

    def draw(self, split: str, index_B: torch.Tensor) -> Drawn:
        """The choices behind the samples at these indices (int64, (B,)) of a split."""
        ids_key = stream_key(self._seed, "planted", split, "ids")
        counters_FB = index_B * self._num_sparse + torch.arange(self._num_sparse)[:, None]
        draws = -(-self._num_dense // _LANES)
        dense_key = stream_key(self._seed, "planted", split, "dense")
        lanes = _lanes(random_bits(dense_key, index_B * draws + torch.arange(draws)[:, None]))
        return Drawn(
            ids_FB=self._zipf.draw(uniform64(ids_key, counters_FB)),
            levels_NB=self.dense.draw(lanes.flatten(0, 1)[: self._num_dense]),
        )

    def logits(self, drawn: Drawn) -> torch.Tensor:
        """Log-odds of a click; float64 (B,)."""
        logit_B = torch.full((drawn.ids_FB.shape[1],), self._bias, dtype=torch.float64)
        for part_B, mean, weight in zip(self._parts(drawn), self._means, self._weights, strict=True):
            logit_B += (part_B - mean) * weight
        return logit_B

    def _parts(self, drawn: Drawn) -> tuple[torch.Tensor, ...]:
        """The four sums of the formula, in the order of ``_SHARES`` and without their weights; float64 (B,) each."""
        vectors_FRB = self._vectors(drawn.ids_FB) - self._centre_FR1
        total_RB = vectors_FRB.sum(0, dtype=torch.float64)
        # Rendle's lemma 3.1: all pairs in linear time. float32 rounds the squares, but to whole numbers all the same.
        squares_B = vectors_FRB.square_().sum((0, 1), dtype=torch.float64)
        return (
            self.dense.effects(drawn.levels_NB),
            total_RB.sum(0),
            total_RB.square().sum(0) - squares_B,
            (total_RB * self.dense.mapped(drawn.levels_NB)).sum(0),
        )

    def _vectors(self, ids_FB: torch.Tensor) -> torch.Tensor:
        """Hidden vectors of the ids before centring; float32 (F, R, B), whole numbers."""
        counters_FDB = ids_FB[:, None] * self._draws + (self._first_draw_F11 + torch.arange(self._draws)[:, None])
        lanes_FRB = _lanes(random_bits(self._effects_key, counters_FDB)).flatten(1, 2)[:, : self._rank]
        vectors_FRB = lanes_FRB * self._zipf.familiarity(ids_FB)[:, None]
        return vectors_FRB.mul_(self._scale_FR1).round_()

    def _calibrate(self, signal: float, click_rate: float) -> None:
        """Centre the vectors of each table, then set mean and weight of each part and the bias.

        Without centring, products would hold first-order effects, and a linear model would explain part of them.
        """
        chunks = [self.draw("calibration", i) for i in torch.arange(_CALIBRATION_SAMPLES).split(_CHUNK_SAMPLES)]
        sums_CFR1 = torch.stack([self._vectors(c.ids_FB).sum(2, keepdim=True, dtype=torch.float64) for c in chunks])
        self._centre_FR1 = (sums_CFR1.sum(0) / _CALIBRATION_SAMPLES).round().to(torch.float32)
        parts_PB = torch.cat([torch.stack(self._parts(chunk)) for chunk in chunks], dim=1)
        means_P, std_P = parts_PB.mean(1), parts_PB.std(1)
        # A part that never varies (products of a single table, say) has nothing to say: the others fill its share.
        weights_P = torch.tensor(_SHARES, dtype=torch.float64).sqrt() / std_P
        weights_P[std_P == 0] = 0.0
        centred_B = ((parts_PB - means_P[:, None]) * weights_P[:, None]).sum(0)
        weights_P *= signal / centred_B.std()
        # float32, so that a last bit that depends on the number of threads does not reach the samples.
        self._means: list[float] = means_P.to(torch.float32).tolist()
        self._weights: list[float] = weights_P.to(torch.float32).tolist()
        self._bias = _bias_for_rate(centred_B * (signal / centred_B.std()), click_rate)


class PlantedSource(Source):
    """One split of a planted data set.

    Args:
        config: what to draw.
        split: the splits are independent draws of the same distribution.
        hidden: the hidden model of the same config, where it was built already.
    """

    def __init__(self, config: PlantedData, split: Split, hidden: HiddenModel | None = None) -> None:
        self._config = config
        self._split = split
        self._hidden = hidden if hidden is not None else HiddenModel(config)
        self._label_key = stream_key(config.seed, "planted", split, "label")
        num_samples: int = {
            "train": config.train_samples,
            "validation": config.validation_samples,
            "test": config.test_samples,
        }[split]
        super().__init__(f"planted {split} data", Schema.numbered(config.num_dense, config.rows), num_samples)

    def read(self, index_B: torch.Tensor) -> Samples:
        """The samples at these indices (int64, (B,)), in this order; ids_BS is a transposed view."""
        batch = len(index_B)
        dense_NB = torch.empty(self._config.num_dense, batch)
        ids_FB = torch.empty(len(self._config.rows), batch, dtype=torch.int64)
        labels_B = torch.empty(batch)
        for start in range(0, batch, _CHUNK_SAMPLES):
            chunk = slice(start, start + _CHUNK_SAMPLES)
            drawn = self._hidden.draw(self._split, index_B[chunk])
            ids_FB[:, chunk] = drawn.ids_FB
            dense_NB[:, chunk] = self._hidden.dense.values(drawn.levels_NB)
            # The last bit of sigmoid may depend on the vector lane; a 53-bit random number would have to fall on it.
            labels_B[chunk] = uniform64(self._label_key, index_B[chunk]) < self._hidden.logits(drawn).sigmoid_()
        return Samples(dense_BN=dense_NB.t().contiguous(), ids_BS=ids_FB.t(), labels_B=labels_B)

    def fingerprint(self) -> tuple[FileFingerprint, ...]:
        """No file: the options say all."""
        return ()

    def true_logits(self, index_B: torch.Tensor) -> torch.Tensor:
        """The hidden log-odds of a click of the samples at these indices; float64 (B,).

        No score has a higher expected AUC than this one.
        """
        chunks = index_B.split(_CHUNK_SAMPLES)
        return torch.cat([self._hidden.logits(self._hidden.draw(self._split, chunk_B)) for chunk_B in chunks])


def planted_dataset(config: PlantedData) -> Dataset:
    """The three splits, with one hidden model between them."""
    hidden = HiddenModel(config)
    return Dataset(
        train=PlantedSource(config, "train", hidden),
        validation=PlantedSource(config, "validation", hidden),
        test=PlantedSource(config, "test", hidden),
    )


def _hidden_uniform(seed: int, name: str, *shape: int) -> torch.Tensor:
    """float64 in [0, 1) of the given shape, fixed properties of the hidden model."""
    return uniform64(stream_key(seed, "planted", "hidden", name), torch.arange(math.prod(shape))).view(shape)


def _spread(uniform: torch.Tensor) -> torch.Tensor:
    """Weights between exp(-spread) and exp(spread), uniform in the logarithm."""
    return torch.exp(_WEIGHT_SPREAD * (2 * uniform - 1))


def _standardised(levels_NK: torch.Tensor) -> torch.Tensor:
    """Mean 0 and standard deviation 1 over the equally likely levels of each feature."""
    centred_NK = levels_NK - levels_NK.mean(1, keepdim=True)
    std_N1 = centred_NK.square().mean(1, keepdim=True).sqrt()
    return centred_NK / std_N1


def _lanes(bits: torch.Tensor) -> torch.Tensor:
    """Four 16-bit numbers from each 64-bit one: (..., D, B) int64 becomes (..., D, 4, B) int16."""
    lanes = bits.contiguous().view(torch.int16)
    return lanes.view(*bits.shape, _LANES).transpose(-1, -2)


def _bias_for_rate(logits_B: torch.Tensor, click_rate: float) -> float:
    """The number to add to the logits for their mean probability to be ``click_rate``, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(50):
        middle = (low + high) / 2
        if torch.sigmoid(logits_B + middle).mean().item() < click_rate:
            low = middle
        else:
            high = middle
    return torch.tensor(low, dtype=torch.float32).item()
