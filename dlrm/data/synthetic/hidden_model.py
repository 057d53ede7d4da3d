"""The hidden model of planted data: what samples look like, and how likely each of their labels is 1.

It is a factorisation machine (Rendle, "Factorization machines", ICDM 2010, equation 1) over the ids and a
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
- Where samples have histories (:mod:`dlrm.data.synthetic.planted_history`) what they add is one more part, whatever the
  teacher, and ``history.share`` its share; the others' shrink by as much.

That is the teacher ``default``. The others have straight f_n, no fourth part, and shares that make clear what a model must
express: ``linear`` has the first two parts alone; ``factorisation`` has the third as well; ``cross`` has instead
e * sum_r A_r B_r C_r, where A, B and C are the sums of the vectors of every third table. Vectors are centred and tables
are drawn independently, so that given two ids the mean of such a product is 0: no sum of functions of two features follows
any of it, and the best that a model of pairs can do is the true logit without it.

Each of several tasks has such a sum u_t over the same ids and dense features, with effects of its own. The logit of the
first task is u_0 + bias_0, those of the others are correlation * u_0 + sqrt(1 - correlation^2) * u_t + bias_t.

Ids follow Zipf's law. Id 0 is the most frequent one of its table, id 1 the next: as a vocabulary sorted by count would
number them.

All that is summed here is whole numbers, small enough for float64 (float32 where said) to add them without rounding. Sums
of floats would depend on the order in which a vectorised kernel takes them, hence on how many samples are drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from dlrm.config.data import PlantedData
from dlrm.config.data.synthetic import Teacher
from dlrm.counter_rng import random_bits, stream_key, uniform64
from dlrm.data.synthetic.ids import task_key
from dlrm.data.synthetic.planted_history import DrawnHistory, Histories

Part = Literal["dense", "ids", "pairs", "mapped", "triples", "history"]
# Shares of the variance of the logit: a, b, c, d, e above. Of the default teacher a linear model reaches neither c nor d,
# nor the V in a.
_SHARES: dict[Teacher, dict[Part, float]] = {
    "default": {"dense": 0.30, "ids": 0.48, "pairs": 0.18, "mapped": 0.04},
    "linear": {"dense": 0.30, "ids": 0.70},
    "factorisation": {"dense": 0.15, "ids": 0.35, "pairs": 0.50},
    "cross": {"dense": 0.15, "ids": 0.35, "triples": 0.50},
}
_FAMILIAR_PROBABILITY = 0.05
_WEIGHT_SPREAD = 2.0
_ORDERS: dict[Part, int] = {"dense": 1, "ids": 1, "pairs": 2, "mapped": 2, "triples": 3, "history": 2}
HIGHEST_ORDER = 3
_MAX_BEND = 0.4  # radians from the straight line (0) towards the V shape (pi / 2)
_DENSE_LEVELS = 1024
_LANES = 4  # 16-bit numbers in a draw of 64 bits
_FACTOR_DECAY = 0.4
_EFFECT_UNIT = 2.0**-6  # a lane times this is a hidden factor before weighting, about +-512
_DENSE_UNIT = 2.0**-6
_MAP_UNIT = 2.0**-4
CHUNK_SAMPLES = 1024  # intermediate results of this many samples stay in the cache
_CALIBRATION_SAMPLES = 65_536


@dataclass(frozen=True)
class Drawn:
    """The random choices behind B samples.

    Attributes:
        ids_FB: int64 (F, B).
        levels_NB: int64 (N, B), positions in the concatenated tables of dense levels.
        history: the histories, if there are some.
    """

    ids_FB: torch.Tensor
    levels_NB: torch.Tensor
    history: DrawnHistory | None = None


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
        seed: of the hidden model.

    Attributes:
        standard_NK: float64 (N, levels), the values with mean 0 and standard deviation 1.
    """

    def __init__(self, num_dense: int, seed: int) -> None:
        quantile_K = (torch.arange(_DENSE_LEVELS, dtype=torch.float64) + 0.5) / _DENSE_LEVELS
        location_N1 = 3 * _hidden_uniform(seed, "dense location", num_dense, 1) - 0.5
        scale_N1 = 1 + _hidden_uniform(seed, "dense scale", num_dense, 1)
        count_NK = torch.exp(location_N1 + scale_N1 * torch.special.ndtri(quantile_K)).floor()
        value_NK = torch.log1p(count_NK)
        self.standard_NK = _standardised(value_NK)
        self._value = value_NK.to(torch.float32).flatten()
        self._start_N1 = torch.arange(num_dense)[:, None] * _DENSE_LEVELS

    def draw(self, lanes_NB: torch.Tensor) -> torch.Tensor:
        """Positions of levels (int64, (N, B)) from 16 random bits each (int16, (N, B))."""
        # The low bits of a lane, as a number 0 .. _DENSE_LEVELS - 1 (a power of two).
        return (lanes_NB & (_DENSE_LEVELS - 1)) + self._start_N1

    def values(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """What the model sees; float32 (N, B)."""
        return self._value.take(levels_NB)


class DenseEffects:
    """What the levels of the dense features do to the logit of a task.

    Args:
        levels: of N features.
        rank: R, width of the linear map.
        seed: of the hidden model.
        task: its number.
        max_bend: radians from the straight line; 0 for straight lines.
    """

    def __init__(self, levels: DenseLevels, rank: int, seed: int, task: int, max_bend: float) -> None:
        standard_NK = levels.standard_NK
        num_dense = len(standard_NK)

        def hidden(name: str, *shape: int) -> torch.Tensor:
            return _hidden_uniform(seed, f"dense {name}", *shape, task=task)

        bend_N1 = max_bend * (2 * hidden("bend", num_dense, 1) - 1)
        effect_NK = bend_N1.cos() * standard_NK + bend_N1.sin() * _standardised(standard_NK.abs())
        sign_N1 = torch.where(hidden("sign", num_dense, 1) < 0.5, -1.0, 1.0)
        weight_N1 = _spread(hidden("weight", num_dense, 1)) * sign_N1
        self._standard = (standard_NK / _DENSE_UNIT).round().flatten()
        self._effect = (weight_N1 * effect_NK / _DENSE_UNIT).round().flatten()
        self._map_RN = ((2 * hidden("map", rank, num_dense) - 1) / _MAP_UNIT).round()

    def effects(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """Sum of f_n over the features; float64 (B,), whole numbers."""
        return self._effect.take(levels_NB).sum(0)

    def mapped(self, levels_NB: torch.Tensor) -> torch.Tensor:
        """M s; float64 (R, B), whole numbers."""
        return self._map_RN @ self._standard.take(levels_NB)


class Draws:
    """The random choices behind samples, the same for all tasks.

    Attributes:
        zipf, dense: how ids and dense features are drawn; histories: how those are, None without.
    """

    def __init__(self, config: PlantedData) -> None:
        self._seed = config.seed
        self._num_dense, self._num_sparse = config.num_dense, len(config.rows)
        self.zipf = ZipfIds(config.rows, config.zipf_exponent)
        self.dense = DenseLevels(config.num_dense, config.seed)
        self.histories: Histories | None = None
        if config.history.max_length:
            self.histories = Histories(config.history, config.seed)

    def __call__(self, split: str, index_B: torch.Tensor) -> Drawn:
        """The choices behind the samples at these indices (int64, (B,)) of a split."""
        ids_key = stream_key(self._seed, "planted", split, "ids")
        counters_FB = index_B * self._num_sparse + torch.arange(self._num_sparse)[:, None]
        draws = -(-self._num_dense // _LANES)
        dense_key = stream_key(self._seed, "planted", split, "dense")
        lanes = _lanes(random_bits(dense_key, index_B * draws + torch.arange(draws)[:, None]))
        return Drawn(
            ids_FB=self.zipf.draw(uniform64(ids_key, counters_FB)),
            levels_NB=self.dense.draw(lanes.flatten(0, 1)[: self._num_dense]),
            history=None if self.histories is None else self.histories.draw(split, index_B),
        )

    def for_calibration(self) -> list[Drawn]:
        """65,536 samples of a stream of their own, the same on every rank."""
        return [self("calibration", i) for i in torch.arange(_CALIBRATION_SAMPLES).split(CHUNK_SAMPLES)]


class HiddenLogit:
    """u_t of the module's formula: mean 0 and standard deviation ``signal`` over the samples of the calibration."""

    def __init__(self, config: PlantedData, draws: Draws, calibration: Sequence[Drawn], task: int) -> None:
        tables = len(config.rows)
        self._histories = draws.histories
        self._shares = _SHARES[config.teacher]
        if draws.histories is not None:
            share = config.history.share
            self._shares = {name: part * (1 - share) for name, part in self._shares.items()} | {"history": share}
        self._zipf, self._rank = draws.zipf, config.rank
        max_bend = _MAX_BEND if config.teacher == "default" else 0.0
        self._dense = DenseEffects(draws.dense, config.rank, config.seed, task, max_bend)
        self._effects_key = task_key(task, config.seed, "planted", "hidden", "effects")
        self._draws = -(-config.rank // _LANES)
        first_row_F = torch.tensor([0, *config.rows[:-1]]).cumsum(0)
        self._first_draw_F11 = (first_row_F * self._draws)[:, None, None]
        weight_F = _spread(_hidden_uniform(config.seed, "table weight", tables, task=task))
        scale_FR = _EFFECT_UNIT * weight_F[:, None] * _FACTOR_DECAY ** torch.arange(config.rank)
        self._scale_FR1 = scale_FR.to(torch.float32)[:, :, None]
        self._centre_FR1 = torch.zeros(tables, config.rank, 1)
        self.calibrated_B = self._calibrate(calibration, config.signal)

    def __call__(self, drawn: Drawn, bias: float, order: int = HIGHEST_ORDER) -> torch.Tensor:
        """u_t + bias, of its parts those that multiply at most ``order`` features; float64 (B,)."""
        logit_B = torch.full((drawn.ids_FB.shape[1],), bias, dtype=torch.float64)
        parts = zip(self._shares, self._parts(drawn), self._means, self._weights, strict=True)
        for name, part_B, mean, weight in parts:
            if _ORDERS[name] <= order:
                logit_B += (part_B - mean) * weight
        return logit_B

    def _parts(self, drawn: Drawn) -> tuple[torch.Tensor, ...]:
        """The sums of the formula that the teacher has, in the order of its shares, without their weights; float64 (B,)."""
        vectors_FRB = self._vectors(drawn.ids_FB) - self._centre_FR1
        total_RB = vectors_FRB.sum(0, dtype=torch.float64)
        triples_B = _triples(vectors_FRB) if "triples" in self._shares else None
        # Rendle's lemma 3.1: all pairs in linear time. float32 rounds the squares, but to whole numbers all the same.
        squares_B = vectors_FRB.square_().sum((0, 1), dtype=torch.float64)
        parts: dict[Part, torch.Tensor | None] = {
            "dense": self._dense.effects(drawn.levels_NB),
            "ids": total_RB.sum(0),
            "pairs": total_RB.square().sum(0) - squares_B,
            "mapped": (total_RB * self._dense.mapped(drawn.levels_NB)).sum(0),
            "triples": triples_B,
            "history": self._of_history(drawn),
        }
        return tuple(part for name in self._shares if (part := parts[name]) is not None)

    def _of_history(self, drawn: Drawn) -> torch.Tensor | None:
        if self._histories is None or drawn.history is None:
            return None
        return self._histories.effect(drawn.history)

    def _vectors(self, ids_FB: torch.Tensor) -> torch.Tensor:
        """Hidden vectors of the ids before centring; float32 (F, R, B), whole numbers."""
        counters_FDB = ids_FB[:, None] * self._draws + (self._first_draw_F11 + torch.arange(self._draws)[:, None])
        lanes_FRB = _lanes(random_bits(self._effects_key, counters_FDB)).flatten(1, 2)[:, : self._rank]
        vectors_FRB = lanes_FRB * self._zipf.familiarity(ids_FB)[:, None]
        return vectors_FRB.mul_(self._scale_FR1).round_()

    def _calibrate(self, chunks: Sequence[Drawn], signal: float) -> torch.Tensor:
        """Centre the vectors of each table, then set mean and weight of each part; u_t of the samples, float64 (B,).

        Without centring, products would hold first-order effects, and a linear model would explain part of them.
        """
        sums_CFR1 = torch.stack([self._vectors(c.ids_FB).sum(2, keepdim=True, dtype=torch.float64) for c in chunks])
        self._centre_FR1 = (sums_CFR1.sum(0) / _CALIBRATION_SAMPLES).round().to(torch.float32)
        parts_PB = torch.cat([torch.stack(self._parts(chunk)) for chunk in chunks], dim=1)
        means_P, std_P = parts_PB.mean(1), parts_PB.std(1)
        # A part that never varies (products of a single table, say) has nothing to say: the others fill its share.
        weights_P = torch.tensor(list(self._shares.values()), dtype=torch.float64).sqrt() / std_P
        weights_P[std_P == 0] = 0.0
        centred_B = ((parts_PB - means_P[:, None]) * weights_P[:, None]).sum(0)
        weights_P *= signal / centred_B.std()
        # float32, so that a last bit that depends on the number of threads does not reach the samples.
        self._means: list[float] = means_P.to(torch.float32).tolist()
        self._weights: list[float] = weights_P.to(torch.float32).tolist()
        return centred_B * (signal / centred_B.std())


class HiddenModel:
    """What samples look like and how likely each task's label is 1; shared by the splits of a data set.

    Attributes:
        draw: the choices behind samples.
    """

    def __init__(self, config: PlantedData) -> None:
        self.draw = Draws(config)
        calibration = self.draw.for_calibration()
        others = max(len(config.tasks) - 1, 0)
        rates = config.task_rates * others if len(config.task_rates) == 1 else config.task_rates
        self._logits = [HiddenLogit(config, self.draw, calibration, task) for task in range(1 + others)]
        first_B = self._logits[0].calibrated_B
        self._shared, self._own = config.task_correlation, math.sqrt(1 - config.task_correlation**2)
        self._biases = [_bias_for_rate(first_B, config.click_rate)]
        for logit, rate in zip(self._logits[1:], rates[:others], strict=True):
            self._biases.append(_bias_for_rate(self._shared * first_B + self._own * logit.calibrated_B, rate))

    def logits(self, drawn: Drawn, order: int = HIGHEST_ORDER) -> torch.Tensor:
        """Log-odds of a label of 1 for each task, of parts that multiply at most ``order`` features; float64 (B, T)."""
        first, *others = self._logits
        columns = [first(drawn, self._biases[0], order)]
        for logit, bias in zip(others, self._biases[1:], strict=True):
            shared_B = columns[0] - self._biases[0]
            columns.append(self._shared * shared_B + self._own * logit(drawn, 0.0, order) + bias)
        return torch.stack(columns, dim=1)


def _hidden_uniform(seed: int, name: str, *shape: int, task: int = 0) -> torch.Tensor:
    """float64 in [0, 1) of the given shape, fixed properties of the hidden model or of a task's part of it."""
    return uniform64(task_key(task, seed, "planted", "hidden", name), torch.arange(math.prod(shape))).view(shape)


def _triples(vectors_FRB: torch.Tensor) -> torch.Tensor:
    """sum_r A_r B_r C_r, float64 (B,); 0 with fewer than three tables."""
    first_RB, second_RB, third_RB = (vectors_FRB[group::3].sum(0, dtype=torch.float64) for group in range(3))
    products_RB = first_RB * second_RB * third_RB
    total_B = torch.zeros_like(products_RB[0])
    for products_B in products_RB:  # one after the other: of many numbers these sums may be rounded
        total_B += products_B
    return total_B


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
