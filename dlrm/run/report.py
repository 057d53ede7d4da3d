"""report.html: a finished run on one page that needs no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlrm.metrics.base_rate import WorseThanBaseRate
from dlrm.run.page import STYLE, data_uri, render
from dlrm.run.results import table_rows

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ summary.name }}</title><style>
{{ style | safe }}img { background: #fff; } .wide { overflow-x: auto; }
</style></head><body>
<h1>{{ summary.name }}</h1>
<p>{{ summary.stopped }}: {{ "{:,}".format(summary.steps) }} steps, {{ "{:,}".format(summary.samples) }} samples,
{{ "%.1f" | format(summary.training_time_s) }} s of training, {{ "{:,.0f}".format(summary.samples_per_s) }} samples/s
on {{ summary.ranks }} rank(s) ({{ summary.device }}).</p>
{% if worse %}<p><strong>Warning:</strong> {{ worse }}</p>{% endif %}
<div class="wide"><table><tr><th></th><th>AUC</th><th>log loss</th><th>NE</th><th>calibration</th><th>samples</th></tr>
{% for title, figures in rows %}<tr><th>{{ title }}</th>
{% for name in ("auc", "log_loss", "normalised_entropy", "calibration") %}
<td>{{ "%.5f" | format(figures[name]) if figures.get(name) is not none else "-" }}</td>{% endfor %}
<td>{{ "{:,}".format(figures.samples) if figures.samples else "" }}</td></tr>{% endfor %}</table></div>
{% if curves %}<img alt="log loss, AUC and samples per second over steps" src="{{ curves }}">
{% endif %}{% for title, text in texts %}<h2>{{ title }}</h2><pre>{{ text }}</pre>{% endfor %}
</body></html>
"""


def write_report(folder: Path, summary: dict[str, Any]) -> None:
    """Write report.html from a run's summary and those files that its folder holds by now."""
    picture = folder / "curves.png"
    curves = data_uri(picture.read_bytes(), "image/png") if picture.is_file() else ""
    titles = {"plan.txt": "Sharding plan", "config.yaml": "Configuration", "environment.json": "Environment"}
    texts = [(title, (folder / name).read_text()) for name, title in titles.items() if (folder / name).is_file()]
    found = summary.get("worse_than_base_rate")
    worse = WorseThanBaseRate(**found) if found else None
    rows = list(table_rows(summary))
    page = render(_PAGE, style=STYLE, summary=summary, rows=rows, curves=curves, texts=texts, worse=worse)
    (folder / "report.html").write_text(page)
