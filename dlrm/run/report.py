"""report.html: a finished run on one page that needs no other file."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2

from dlrm.metrics.base_rate import WorseThanBaseRate
from dlrm.run.results import table_rows

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ summary.name }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; }
tr { border-bottom: 1px solid #ddd; } img { max-width: 100%; } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; }
</style></head><body>
<h1>{{ summary.name }}</h1>
<p>{{ summary.stopped }}: {{ "{:,}".format(summary.steps) }} steps, {{ "{:,}".format(summary.samples) }} samples,
{{ "%.1f" | format(summary.training_time_s) }} s of training, {{ "{:,.0f}".format(summary.samples_per_s) }} samples/s
on {{ summary.ranks }} rank(s) ({{ summary.device }}).</p>
{% if worse %}<p><strong>Warning:</strong> {{ worse }}</p>{% endif %}
<table><tr><th></th><th>AUC</th><th>log loss</th><th>NE</th><th>calibration</th><th>samples</th></tr>
{% for title, figures in rows %}<tr><th>{{ title }}</th>
{% for name in ("auc", "log_loss", "normalised_entropy", "calibration") %}
<td>{{ "%.5f" | format(figures[name]) if figures.get(name) is not none else "-" }}</td>{% endfor %}
<td>{{ "{:,}".format(figures.samples) if figures.samples else "" }}</td></tr>{% endfor %}</table>
{% if curves %}<img alt="log loss, AUC and samples per second over steps" src="data:image/png;base64,{{ curves }}">
{% endif %}{% for title, text in texts %}<h2>{{ title }}</h2><pre>{{ text }}</pre>{% endfor %}
</body></html>
"""


def write_report(folder: Path, summary: dict[str, Any]) -> None:
    """Write report.html from a run's summary and those files that its folder holds by now."""
    picture = folder / "curves.png"
    curves = base64.b64encode(picture.read_bytes()).decode() if picture.is_file() else ""
    titles = {"plan.txt": "Sharding plan", "config.yaml": "Configuration", "environment.json": "Environment"}
    texts = [(title, (folder / name).read_text()) for name, title in titles.items() if (folder / name).is_file()]
    found = summary.get("worse_than_base_rate")
    worse = WorseThanBaseRate(**found) if found else None
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    rows = list(table_rows(summary))
    (folder / "report.html").write_text(
        page.render(summary=summary, rows=rows, curves=curves, texts=texts, worse=worse)
    )
