"""``dlrm_main.py report``, and its page in a real browser without a network."""

import pytest

from dlrm.scaling.report.write import write_report
from tests.support import browser
from tests.support.command import run_command
from tests.support.scaling_tables import strong, weak

FIGURES = 8
EVIL = '<script>document.title = "taken"; fetch("https://example.org/")</script>'


def test_the_command_makes_the_page_from_the_table_alone(tmp_path):
    path = weak(most_ranks=2).write(tmp_path / "results.parquet")
    (done,) = run_command(["report", str(path), "--output", str(tmp_path / "out")])
    assert (done.exit_code, done.stdout) == (0, f"report: {tmp_path}/out/report.html\n"), done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "throughput.png").is_file()


def test_a_file_that_is_no_table_is_one_line_and_exit_code_2(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("point,value\na,1\n")
    (done,) = run_command(["report", str(path)])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "notes.csv: lacks the columns experiment, repeat, status" in done.stderr
    assert [found.name for found in tmp_path.iterdir()] == ["notes.csv"]


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path):
    path = weak(most_ranks=1).write(tmp_path / "results.parquet")
    (tmp_path / "file").write_text("")
    (done,) = run_command(["report", str(path), "--output", str(tmp_path / "file" / "out")])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "output: " in done.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tables = strong(most_ranks=8)
    tables.failed(f"evil-{EVIL}", 2, 200, f'"{EVIL}')
    return write_report(tables.write(folder / "results.parquet"), folder)


@pytest.fixture(scope="module")
def chromium():
    if reason := browser.missing():
        pytest.skip(reason)
    with browser.Browser() as running:
        yield running


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_whole_without_a_network(pages, chromium, width, dark):
    page = chromium.open(pages, width, dark=dark)
    assert page.errors == []
    assert page.requests[0] == pages.resolve().as_uri()
    assert all(address.startswith("data:image/svg+xml") for address in page.requests[1:])
    sizes = page.value("[...document.images].map((i) => [i.complete, i.naturalWidth, i.clientWidth, i.clientHeight])")
    assert len(sizes) == FIGURES
    assert all(complete and min(lengths) > 100 for complete, *lengths in sizes)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("document.title") == "strong_scaling"
    narrow = page.value("[...document.images].every((image) => image.naturalWidth < 500)")
    assert narrow == (width == 400)


INK = """(async () => {
  const image = document.querySelector("#throughput img"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const paint = canvas.getContext("2d");
  paint.drawImage(image, 0, 0);
  const data = paint.getImageData(0, 0, canvas.width, canvas.height).data, found = { black: 0, white: 0 };
  for (let at = 0; at < data.length; at += 4)
    if (data[at + 3] > 250) {
      found.black += Math.max(data[at], data[at + 1], data[at + 2]) < 60;
      found.white += Math.min(data[at], data[at + 1], data[at + 2]) > 225;
    }
  return found;
})()"""


def test_text_in_pictures_is_dark_on_light_pages_and_light_on_dark_ones(pages, chromium):
    light = chromium.open(pages, 1000).value(INK)
    dark = chromium.open(pages, 1000, dark=True).value(INK)
    assert light["black"] > 100
    assert dark["black"] == 0
    assert dark["white"] > 100


COLUMN = """(at) => [...document.querySelectorAll("tbody tr")].map((row) => row.cells[at].textContent.trim())"""


def test_a_click_on_a_heading_sorts_by_it_up_and_down(pages, chromium):
    page = chromium.open(pages, 1200)
    titles = page.value('[...document.querySelectorAll("thead th")].map((head) => head.textContent.trim())')
    rates, ranks = titles.index("samples/s"), titles.index("ranks")
    unsorted = page.value(f"({COLUMN})({ranks})")

    def click(at):
        page.value(f'document.querySelectorAll("thead th button")[{at}].click()')
        return page.value(f"({COLUMN})({at})"), page.value(
            f'document.querySelectorAll("thead th")[{at}].getAttribute("aria-sort")'
        )

    up, said = click(ranks)
    assert said == "ascending"
    assert [int(text) for text in up] == sorted(int(text) for text in unsorted)
    down, said = click(ranks)
    assert said == "descending"
    assert down == up[::-1]
    rising, _ = click(rates)
    numbers = [float(text.split()[0].replace(",", "")) for text in rising[:-1]]
    assert numbers == sorted(numbers)
    assert rising[-1] == "–"  # what has no figure is last, up and down
    assert click(rates)[0][-1] == "–"
    assert page.value('document.querySelectorAll("thead th[aria-sort]").length') == 1
    assert page.errors == []


def test_the_page_reads_without_scripts(pages, chromium):
    page = chromium.open(pages, 1200, scripts=False)
    assert page.errors == []
    assert page.value('document.querySelectorAll("thead th button").length') == 0
    assert page.value('document.querySelectorAll("tbody tr").length') == 13
    assert "evil-<script>" in page.value("document.body.innerText")


def test_a_foreign_script_would_not_run(pages, chromium, tmp_path):
    """Were a name ever not escaped, the page's own policy would stop it."""
    path = tmp_path / "taken.html"
    path.write_text(pages.read_text().replace("<h1>", f"{EVIL}<h1>"))
    page = chromium.open(path, 1200)
    assert page.value("document.title") == "strong_scaling"
    assert any("Content Security Policy" in error for error in page.errors)
