"""Quality of click predictions over any number of samples, in constant memory.

Logits are collected in a buffer of fixed size; each time it is full, it is folded into float64 sums (log loss, mean
prediction), integer counts and a :class:`~dlrm.metrics.score_histogram.ScoreHistogram`, which gives the AUC. Between
updates that takes at most 44 MiB (12 for the buffer, 32 for the histogram), whatever the number of samples; folding
takes up to 170 MiB more for a moment (measured on CPU).

The AUC and everything counted are the same bit for bit for any order of the samples and any number of ranks; log loss
and sums of predictions agree to float64 rounding.

With weights each sample counts as much as its weight says in every figure, as with scikit-learn's ``sample_weight``; those
that are sums of weights agree to float64 rounding then. The histogram counts whole numbers of 2^-24, to which weights are
rounded there, so that AUC and average precision stay the same bit for bit. (A weight of 1e-4 has three digits of them, one
from 1 on all that float32 has.) A sample of at most 2^-25, 3e-8, has none of them: AUC and average precision leave it out,
and are None where that leaves no positive; scale such weights up. Each weight is off by at most 2^-25.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from dlrm.distributed.collectives import Collectives
from dlrm.errors import DataError, DivergedError
from dlrm.metrics.score_histogram import CAPACITY_CELLS, ScoreHistogram

BUFFER_SAMPLES = 1 << 20
_UNITS = 1 << 24  # of a weight of 1 in the histogram
_MOST_WEIGHT = 2.0**62 / _UNITS


@dataclass(frozen=True)
class BinaryResult:
    """Metrics of a set of samples; None where the set does not define one.

    Error bounds are those of the weights as the histogram counts them.

    Attributes:
        samples: samples scored, padding excluded; those of weight 0 are, too.
        positives: samples with label 1.
        auc: area under the ROC curve of the float32 logits, ties counting one half. None with a single class.
            (Probabilities in float32 would tie logits that sigmoid rounds together, above 17 all of them.)
        auc_error_bound: how far ``auc`` can be from the unbinned scores' at most; 0 up to a million distinct scores.
        log_loss: mean of -log of the probability given to the label (natural logarithm).
        normalised_entropy: ``log_loss`` over the entropy of the set's own click rate (He et al., "Practical lessons
            from predicting clicks on ads at Facebook", ADKDD 2014, section 2). None with a single class.
        accuracy: share of samples whose label is 1 exactly when the predicted probability is above 0.5.
        calibration: sum of predicted probabilities / positives (same source). None without positives.
        click_rate: positives / samples.
        mean_prediction: mean predicted probability.
        average_precision: area under the precision-recall curve (AUPRC) as scikit-learn sums it. None without positives.
        average_precision_error_bound: how far it can be from the unbinned scores' at most.
        weight: sum of the samples' weights, by which all figures but ``samples`` and ``positives`` are made; None without.
    """

    samples: int
    positives: int
    auc: float | None
    auc_error_bound: float | None
    log_loss: float | None
    normalised_entropy: float | None
    accuracy: float | None
    calibration: float | None
    click_rate: float | None
    mean_prediction: float | None
    average_precision: float | None = None
    average_precision_error_bound: float | None = None
    weight: float | None = None

    @property
    def counted_positives(self) -> float:
        """``positives``; with weights their share by weight of ``samples``, so that it goes with the log loss."""
        weighted = self.weight is not None and self.click_rate is not None
        return self.click_rate * self.samples if weighted else self.positives  # type: ignore[operator]  # is not None

    def to_dict(self) -> dict[str, int | float | None]:
        """The fields by name, ready for JSON; without a weight where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "weight" or value is not None}


class BinaryMetrics:
    """Accumulates predictions; ``update`` per batch, ``all_reduce`` once, ``compute``.

    ``update`` does not wait for the device, but for one call in each 2^20 samples, which folds the buffer.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        device: torch.device,
        *,
        buffer_samples: int = BUFFER_SAMPLES,
        histogram_cells: int = CAPACITY_CELLS,
        weighted: bool = False,
    ) -> None:
        """Nothing counted yet.

        Args:
            device: where predictions are and metrics are kept.
            weighted: count each sample by its weight, not once.
            buffer_samples: predictions collected between two foldings, 12 bytes each.
            histogram_cells: see :class:`~dlrm.metrics.score_histogram.ScoreHistogram`.
        """
        self.histogram = ScoreHistogram(device, capacity_cells=histogram_cells)
        self._buffer_3M = torch.empty(3, buffer_samples, device=device)  # logits, labels, weights
        self._buffered = 0
        self._counts_3 = torch.zeros(3, dtype=torch.int64, device=device)  # samples, positives, non-finite
        # log loss, predicted probability, weights, of them those of positives and of correct predictions; times the weights
        self._sums_5 = torch.zeros(5, dtype=torch.float64, device=device)
        self._weighted = weighted
        self._reduced = False

    @torch.no_grad()
    def update(self, logits_B: torch.Tensor, labels_B: torch.Tensor, weights_B: torch.Tensor) -> None:
        """Count a batch.

        Args:
            logits_B: (B,), any floating type; rounded to float32.
            labels_B: (B,), 0 or 1.
            weights_B: (B,), finite; 0 for padding, which is ignored whatever its logit, else the sample's weight.

        Raises:
            ValueError: the shapes differ.
            RuntimeError: the metrics were reduced already.
        """
        self._require_local()
        if not (logits_B.ndim == 1 and logits_B.shape == labels_B.shape == weights_B.shape):
            shapes = [tuple(tensor.shape) for tensor in (logits_B, labels_B, weights_B)]
            raise ValueError(f"logits, labels and weights must be (B,), not {shapes[0]}, {shapes[1]}, {shapes[2]}")
        start = 0
        while start < logits_B.shape[0]:
            taken = min(logits_B.shape[0] - start, self._buffer_3M.shape[1] - self._buffered)
            free_3B = self._buffer_3M[:, self._buffered : self._buffered + taken]
            for row_B, values_B in zip(free_3B, (logits_B, labels_B, weights_B), strict=True):
                row_B.copy_(values_B[start : start + taken])
            start += taken
            self._buffered += taken
            if self._buffered == self._buffer_3M.shape[1]:
                self._fold()

    def merge(self, other: BinaryMetrics) -> None:
        """Add what ``other`` has counted.

        Raises:
            RuntimeError: one of them was reduced already.
        """
        self._require_local()
        other._require_local()
        self._fold()
        other._fold()
        self.histogram.merge(other.histogram)
        self._counts_3 = self._counts_3 + other._counts_3
        self._sums_5 = self._sums_5 + other._sums_5

    def all_reduce(self, collectives: Collectives) -> None:
        """Replace what this rank has counted by the sum over all ranks; once, after all updates.

        Raises:
            RuntimeError: called a second time, which would count every sample once a rank.
        """
        self._require_local()
        self._fold()
        self._reduced = True
        self.histogram.all_reduce(collectives)
        collectives.all_reduce_sum_(self._counts_3)
        collectives.all_reduce_sum_(self._sums_5)

    def compute(self) -> BinaryResult:
        """The metrics of everything counted.

        Raises:
            DivergedError: a prediction was NaN or infinite. After ``all_reduce`` it is raised on every rank alike.
            DataError: the weights are too large to be summed up.
        """
        self._fold()
        samples, positives, non_finite = self._counts_3.tolist()
        loss_sum, prediction_sum, weight, positive_weight, correct = self._sums_5.tolist()
        if non_finite:
            raise DivergedError(f"{non_finite} of {samples + non_finite} predictions are NaN or infinite")
        if weight >= _MOST_WEIGHT:
            problem = f"have weights that sum up to {weight:.3g}, and {_MOST_WEIGHT:.3g} is the most"
            raise DataError("samples", problem, hint="scale the weights, or set evaluation.weighted to false")
        auc, precision = self.histogram.auc(), self.histogram.average_precision()
        entropy = coin_entropy(positive_weight, weight)
        log_loss = _ratio(loss_sum, weight)
        return BinaryResult(
            samples=samples,
            positives=positives,
            auc=auc.value if auc else None,
            auc_error_bound=auc.error_bound if auc else None,
            log_loss=log_loss,
            normalised_entropy=_ratio(log_loss, entropy) if log_loss is not None else None,
            accuracy=_ratio(correct, weight),
            calibration=_ratio(prediction_sum, positive_weight),
            click_rate=_ratio(positive_weight, weight),
            mean_prediction=_ratio(prediction_sum, weight),
            average_precision=precision.value if precision else None,
            average_precision_error_bound=precision.error_bound if precision else None,
            weight=weight if self._weighted else None,
        )

    def _require_local(self) -> None:
        if self._reduced:
            raise RuntimeError("these metrics already hold the sum over all ranks; start new ones")

    @torch.no_grad()
    def _fold(self) -> None:
        """Empty the buffer into the sums, the counts and the histogram."""
        if self._buffered == 0:
            return
        logits_M, labels_M, weights_M = self._buffer_3M[:, : self._buffered]
        self._buffered = 0
        counted_M = weights_M != 0
        finite_M = logits_M.isfinite()
        non_finite = (counted_M & ~finite_M).sum()
        kept_M = counted_M & finite_M
        logits_K, positive_K = logits_M[kept_M], labels_M[kept_M] > 0.5
        exact_K = logits_K.to(torch.float64)
        losses_K = -torch.nn.functional.logsigmoid(torch.where(positive_K, exact_K, -exact_K))
        correct_K = (logits_K > 0) == positive_K
        self._counts_3 = self._counts_3 + torch.stack((kept_M.sum(), positive_K.sum(), non_finite))
        summed, counts_K = (losses_K, exact_K.sigmoid(), kept_M[kept_M], positive_K, correct_K), None
        if self._weighted:
            weights_K = weights_M[kept_M].to(torch.float64)
            summed = tuple(weights_K * values_K for values_K in summed)
            counts_K = (weights_K * _UNITS).round_().to(torch.int64)
        self._sums_5 = self._sums_5 + torch.stack([values_K.sum(dtype=torch.float64) for values_K in summed])
        self.histogram.add(logits_K, positive_K, counts_K)


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def coin_entropy(positives: float, samples: float) -> float:
    """Entropy in nats of a coin that shows heads ``positives`` times in ``samples``; 0 where only one side shows.

    Numbers of samples, or sums of their weights.
    """
    counts = [count for count in (positives, samples - positives) if count]
    return sum(-count / samples * math.log(count / samples) for count in counts) if len(counts) == 2 else 0.0
