"""What others have published, as rows beside those of an experiment."""

from __future__ import annotations

from dlrm.hardware.catalogue import reference_points
from dlrm.scaling.table import DONE, PUBLISHED, SAMPLES_PER_S, Row


def published_rows() -> list[Row]:
    """MLPerf's results, as rows of an experiment of their own."""
    return [
        Row(
            experiment="MLPerf Training, DLRM-DCNv2",
            point=f"{known.gpus} x {known.device} ({known.round}, {known.submitter})",
            repeat=None,
            status=DONE,
            reason="",
            hosts=known.hosts,
            ranks=known.gpus,
            global_batch_size=known.global_batch_size or 0,
            source=PUBLISHED,
            quantity=SAMPLES_PER_S,
            part="",
            rank=None,
            value=known.samples_s,
        )
        for known in reference_points()
    ]
