import re
from html.parser import HTMLParser

import matplotlib.image
import pytest

from dlrm.scaling.report import looks, parts
from dlrm.scaling.report.about import About
from dlrm.scaling.report.write import write_report
from dlrm.scaling.table import PREDICTED, PUBLISHED
from tests.support.scaling_tables import Tables, strong

FIGURES = ["throughput", "efficiency", "stages", "exchanged", "memory", "balance", "prediction", "published"]
SLOW = pytest.mark.slow
EVIL = '<script>alert("1")</script>'


class Page(HTMLParser):
    """What is on a page: elements with their attributes, texts, rows of its table."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.rows, self.text = [], [], ""
        self.html = path.read_text()
        self.feed(self.html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data.strip() + " "

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take most of the time; this is for tests of what is around them."""
    one = looks.pictures_of(lambda width_in: looks.figure(width_in, 1.0)[0])
    monkeypatch.setattr(parts, "pictures_of", lambda draw: one)


def report(tables, folder, **named):
    return Page(write_report(tables.rows, folder, factors=tables.factors, **named))


def test_a_table_with_everything_has_all_figures_on_the_page_and_as_files(tmp_path):
    page = report(strong(most_ranks=2), tmp_path)
    assert [attributes["id"] for attributes in page.all("section")] == ["points", *FIGURES]
    assert {path.stem for path in tmp_path.glob("*.png")} == set(FIGURES)
    for name in FIGURES:
        assert matplotlib.image.imread(tmp_path / f"{name}.png").std() > 0.02  # something is drawn
    pictures = page.all("img")
    assert len(pictures) == len(FIGURES)
    for picture in pictures:
        assert picture["src"].startswith("data:image/svg+xml;base64,")
        assert len(picture["alt"]) > 40
    assert len(page.all("figcaption")) == len(FIGURES)
    # Nothing of it is elsewhere: the only address that is not in the page is a place on it.
    addresses = [
        value for _, found in page.elements for key, value in found.items() if key in ("src", "href", "srcset")
    ]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.findall(r"url\(|@import|https?://", page.html)


def test_the_table_of_points_says_what_was_found(tmp_path, undrawn):
    tables = Tables(repeats=3, seed=1)
    tables.point("one", 1, 1000, factors={"sharding.kind": "row_wise"})
    tables.point("two", 16, 16000, factors={"sharding.kind": "row_wise"})
    tables.failed("three", 32, 32000, "rank 7 was killed", factors={"sharding.kind": "table_wise"})
    page = report(tables, tmp_path)
    header, one, two, three = page.rows
    assert [title.strip() for title in header] == [
        *("point", "sharding", "ranks", "hosts", "batch", "status", "samples/s", "step ms", "efficiency"),
        *("memory a rank", "predicted", "error"),
    ]
    values = sorted(
        row.value
        for row in tables.rows
        if row.point == "two" and row.quantity == "samples_per_s" and row.repeat is not None
    )
    assert two[:5] == ["two ", "row_wise ", "16 ", "2 ", "16,000 "]
    assert two[6].startswith(f"{values[1]:,.0f} ")
    assert "GiB device" in two[9]
    assert one[8] == "100% "
    assert three[5] == "failed rank 7 was killed "
    assert "three failed: rank 7 was killed" in " ".join(page.text.split())


def test_names_and_reasons_are_text_whatever_they_hold(tmp_path):
    tables = Tables(experiment=EVIL, repeats=2)
    tables.point(f"{EVIL}$x^2$", 2, 200, factors={f"{EVIL}.a": f"\"'{EVIL}"})
    tables.point('"><img src=x onerror=alert(1)>\x1b[31m\u202e', 4, 400, factors={f"{EVIL}.a": "\\frac{$"})
    tables.point("日本 🎉", 8, 800)
    tables.failed("{{ 7 * 7 }}", 8, 800, f"{EVIL}\n&amp;")
    tables.point("p", 8, 800, sources=(PUBLISHED, PREDICTED), off=2.0)
    about = About(EVIL, {"host": EVIL, "devices": [EVIL], "packages": {EVIL: EVIL}, "git": {"commit": EVIL}}, EVIL)
    page = report(tables, tmp_path, about=about)
    assert EVIL not in page.html
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == len(FIGURES) - 1  # each point is a level, so nothing scales
    assert not any(key.startswith("on") for _, found in page.elements for key in found)
    assert {"script", "img"}.isdisjoint(row[0] for row in page.rows)
    assert f"{EVIL}$x^2$" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\\x1b[31m\\u202e" in page.text


def test_what_there_are_no_figures_for_is_left_out_with_the_reason_and_its_old_file_goes(tmp_path, undrawn):
    report(strong(most_ranks=2), tmp_path)
    tables = Tables(repeats=1)
    tables.failed("only", 4, 400, "no reason")
    page = report(tables, tmp_path)
    assert page.all("img") == []
    assert page.text.count("Left out:") == len(FIGURES)
    assert not list(tmp_path.glob("*.png"))
    assert "no point has samples/s" in page.text


def test_one_point_is_enough(tmp_path):
    tables = Tables(repeats=1)
    tables.point("only", 4, 400)
    page = report(tables, tmp_path)
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == set(FIGURES) - {"efficiency", "published"}
    assert "it takes a level that has run on two numbers of ranks or more" in page.text


def test_what_was_only_predicted_is_drawn_too(tmp_path):
    tables = Tables(repeats=1)
    for ranks in (8, 16):
        tables.point(f"on {ranks}", ranks, 100 * ranks, sources=(PREDICTED,))
    page = report(tables, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == set(FIGURES) - {"prediction", "published"}
    assert [row[4] for row in page.rows[1:]] == ["predicted ", "predicted "]
    assert "points only predicted" in page.text


@pytest.mark.parametrize(
    "value",
    [
        0.0,
        float("nan"),
        pytest.param(-1.0, marks=SLOW),
        *(pytest.param(value, marks=SLOW) for value in (1e-100, 1e100)),
    ],
)
def test_strange_figures_are_drawn_or_left_out(tmp_path, value):
    tables = Tables(repeats=1)
    tables.point("well", 2, 200)
    tables.point("ill", 4, 400)
    for number, row in enumerate(tables.rows):
        if row.point == "ill":
            tables.rows[number] = type(row)(**{**vars(row), "value": value})
    page = report(tables, tmp_path)
    assert len(page.rows) == 3


def a_thousand_points():
    tables = Tables(repeats=2)
    for level in range(100):
        for power in range(10):
            factors = {"sharding.seed": level, "model.kind": "dlrm"}
            tables.point(
                f"point-{level}-{2**power}",
                2**power,
                64 * 2**power,
                factors=factors,
                slower=1 + level / 50,
                by_rank=False,
            )
    return tables


@SLOW
def test_a_thousand_points_fit_on_a_page(tmp_path):
    page = report(a_thousand_points(), tmp_path)
    assert len(page.html) < 5e6
    assert len(page.all("img")) == 5


def test_of_a_thousand_points_all_are_in_the_table_and_some_in_each_picture(tmp_path, undrawn):
    page = report(a_thousand_points(), tmp_path)
    assert len(page.rows) == 1001
    assert "Shown are 40 of 1,000 points" in page.text


def test_a_thousand_ranks_fit_in_a_picture(tmp_path):
    tables = Tables(repeats=1)
    for ranks in (256, 1024):
        tables.point(f"{ranks}", ranks, 64 * ranks)
    page = report(tables, tmp_path)
    assert len(page.html) < 3e6
    height, width, _ = matplotlib.image.imread(tmp_path / "memory.png").shape
    assert height < width


def test_a_table_beside_the_page_is_linked_and_one_elsewhere_travels_in_it(tmp_path, undrawn):
    path = strong(most_ranks=2).write(tmp_path / "results.csv")
    beside = Page(write_report(path, tmp_path))
    assert "results.csv" in [attributes["href"] for attributes in beside.all("a")]
    elsewhere = Page(write_report(path, tmp_path / "pages" / "new"))
    (link,) = [attributes for attributes in elsewhere.all("a") if "download" in attributes]
    assert link["href"].startswith("data:text/csv;base64,")


def test_what_lies_beside_a_table_tells_of_the_experiment(tmp_path, undrawn):
    path = strong(most_ranks=2).write(tmp_path / "results.parquet")
    (tmp_path / "environment.json").write_text('{"devices": ["H100", "H100"], "host": "n1", "cpu_cores": 16}')
    (tmp_path / "experiment.yaml").write_text("name: x\ndescription: Does a batch scale?\n")
    text = Page(write_report(path, tmp_path)).text
    assert "Does a batch scale?" in text
    assert "2 x H100" in text
    assert "n1, 16 cores" in text
    (tmp_path / "environment.json").write_text("[1")
    result = tmp_path / "points" / "p" / "repeat_0" / "benchmark.json"
    result.parent.mkdir(parents=True)
    result.write_text('{"environment": {"host": "n2"}}')
    (tmp_path / "experiment.yaml").write_text("{: [")
    text = Page(write_report(path, tmp_path)).text
    assert "Does a batch scale?" not in text
    assert "n2" in text


def test_the_same_table_gives_the_same_pictures(tmp_path):
    tables = Tables(repeats=1)
    tables.point("only", 4, 400)
    first, second = (report(tables, tmp_path / name).all("img") for name in "ab")
    assert first == second
