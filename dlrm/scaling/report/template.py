"""The page itself: HTML with its style and the few lines of script that sort its table."""

from __future__ import annotations

import base64
import hashlib

STYLE = """
body { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .2rem 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; scroll-margin-top: 1rem; }
.about, figcaption, .muted { color: var(--muted); }
.about { margin: 0 0 1rem; max-width: 60rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem .9rem; padding: .6rem 0; border-block: 1px solid var(--line);
  font-size: .9rem; }
nav a { text-decoration: none; } nav a:hover, nav a:focus-visible { text-decoration: underline; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .7rem; margin: 1.2rem 0;
  padding: 0; list-style: none; }
.tiles li { background: var(--card); border-radius: .6rem; padding: .7rem .9rem; border: 1px solid var(--line); }
.tiles b { display: block; white-space: nowrap; font-size: 1.4rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { font-size: .82rem; color: var(--muted); }
.bad { color: var(--bad); } .good { color: var(--good); }
figure { margin: .6rem 0 1rem; }
figcaption { max-width: 60rem; margin: 0 0 .7rem; }
figure picture { display: block; background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem; }
figure img { display: block; width: 100%; height: auto; }
.notes { margin: .4rem 0; padding-left: 1.2rem; } .notes li { margin: .15rem 0; }
.none { background: var(--card); border-left: 3px solid var(--line); padding: .5rem .9rem; color: var(--muted); }
.scroll { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: .6rem; }
.scroll table { margin: 0; width: 100%; font-size: .84rem; }
.scroll th, .scroll td { padding: .38rem .55rem; white-space: nowrap; vertical-align: top; }
.scroll thead th { position: sticky; top: 0; background: var(--card); z-index: 1; vertical-align: bottom;
  box-shadow: inset 0 -1px var(--line); }
.scroll tbody tr:last-child { border-bottom: 0; }
.scroll tbody th { font-weight: 600; }
.scroll .name { white-space: normal; min-width: 8.6rem; overflow-wrap: anywhere; }
.scroll .why { white-space: normal; min-width: 5rem; max-width: 16rem; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll small { color: var(--muted); display: block; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th button { text-decoration: underline dotted var(--muted); text-underline-offset: .25em; }
th button:hover { color: var(--accent); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; margin: .6rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 40rem) { body { padding: 1rem .8rem 3rem; } h1 { font-size: 1.5rem; } figure picture { padding: .4rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; } }
@media print { .scroll { max-height: none; overflow: visible; } nav { display: none; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, at) => row.cells[at].dataset.v ?? row.cells[at].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return 0;
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [key(row, at), row]);
      rows.sort(([a], [b]) => (a === "") - (b === "") || (up ? compare(a, b) : compare(b, a)));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
"""


def policy() -> str:
    """What a browser may do for the page: show pictures that are in it, and run :data:`SCRIPT` and nothing else."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


PAGE = """{% macro shown(table) %}
<section id="{{ table.name }}">
<h2>{{ table.title }}</h2>
<p class="muted">{{ table.reading }}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Table of {{ table.title | lower }}">
<table class="sortable">
<thead><tr>
{% for column in table.columns %}
<th scope="col"{% if column.number %} class="number"{% endif %}>{{ column.title | printable }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
{% if loop.first %}
<th scope="row" class="name">{{ cell.text | printable }}
{% if cell.note %}
<small>{{ cell.note | printable }}</small>
{% endif %}
</th>
{% else %}
<td class="{{ cell.kind }}" data-v="{{ cell.key }}">{{ cell.text | printable }}
{% if cell.note %}
<small>{{ cell.note | printable }}</small>
{% endif %}
</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% if table.failures %}
<ul class="notes">
{% for name, status, reason in table.failures %}
<li>{{ name | printable }} <span class="bad">{{ status }}</span>{{ ": " if reason }}{{ reason | printable }}</li>
{% endfor %}
</ul>
{% endif %}
</section>
{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ head.title | printable }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
<p class="muted">{{ head.what }}</p>
<h1>{{ head.title | printable }}</h1>
{% if head.description %}
<p class="about">{{ head.description | printable }}</p>
{% endif %}
<ul class="tiles">
{% for tile in head.tiles %}
<li><b class="{{ tile.kind }}">{{ tile.value }}</b><span>{{ tile.text | printable }}</span></li>
{% endfor %}
</ul>
{% if head.statements %}
<ul class="notes">
{% for statement in head.statements %}
<li>{{ statement | printable }}</li>
{% endfor %}
</ul>
{% endif %}
<dl>
{% for name, text in head.details %}
<dt>{{ name | printable }}</dt><dd>{{ text | printable }}</dd>
{% endfor %}
<dt>Table</dt><dd>
{% if head.download %}
<a href="{{ head.link }}" download="{{ head.download }}">{{ head.table | printable }}</a>
{% elif head.link %}
<a href="{{ head.link }}">{{ head.table | printable }}</a>
{% else %}
{{ head.table | printable }}
{% endif %}
({{ head.size }})</dd>
</dl>
</header>
<nav aria-label="Sections">
{% for part in tables + figures + later_tables %}
<a href="#{{ part.name }}">{{ part.title }}</a>
{% endfor %}
</nav>
<main>
{% for table in tables %}
{{ shown(table) }}
{% endfor %}
{% for figure in figures %}
<section id="{{ figure.name }}">
<h2>{{ figure.title }}</h2>
{% if figure.wide %}
<figure>
<figcaption>{{ figure.caption }}</figcaption>
<picture>
<source media="(max-width: 40rem)" srcset="{{ figure.narrow }}">
<img src="{{ figure.wide }}" alt="{{ figure.alt | printable }}">
</picture>
</figure>
{% if figure.notes %}
<ul class="notes">
{% for note in figure.notes %}
<li>{{ note | printable }}</li>
{% endfor %}
</ul>
{% endif %}
{% else %}
<p class="none">Left out: {{ figure.why }}.</p>
{% endif %}
</section>
{% endfor %}
{% for table in later_tables %}
{{ shown(table) }}
{% endfor %}
{% if head.environment %}
<section id="environment">
<h2>Environment</h2>
<details><summary>Versions, hardware and code</summary><pre>{{ head.environment }}</pre></details>
</section>
{% endif %}
</main>
<script>{{ script | safe }}</script>
</body>
</html>
"""
