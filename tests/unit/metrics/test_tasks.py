import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from dlrm.metrics.tasks import TaskMetrics, deciding


def test_each_task_is_scored_on_the_labels_that_it_has():
    generator = torch.Generator().manual_seed(0)
    logits_BT = torch.randn(500, 3, generator=generator)
    labels_BT = (torch.rand(500, 3, generator=generator) < logits_BT.sigmoid()).float()
    weights_BT = (torch.rand(500, 3, generator=generator) < torch.tensor([1.0, 0.6, 0.2])).float()
    metrics = TaskMetrics(("click", "like", "follow"), torch.device("cpu"))
    for part in torch.arange(500).split(128):
        metrics.update(logits_BT[part], labels_BT[part], weights_BT[part])
    results = metrics.compute()
    assert list(results) == ["click", "like", "follow"]
    assert deciding(results) is results["click"]
    for task, result in enumerate(results.values()):
        counts = weights_BT[:, task] > 0
        labels, scores = labels_BT[counts, task].numpy(), logits_BT[counts, task]
        assert result.samples == len(labels)
        assert result.auc == pytest.approx(roc_auc_score(labels, scores.numpy()), abs=1e-12)
        assert result.log_loss == pytest.approx(log_loss(labels, scores.double().sigmoid().numpy()), rel=1e-9)
