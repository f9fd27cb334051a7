"""The HTML report of a finished run in a real browser, its tables, and the notebook that reads them."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened")


@pytest.fixture(scope="session")
def report(run, tmp_path_factory):
    """A folder with `report.html` and `tables/` of the run."""
    folder = tmp_path_factory.mktemp("report")
    pipeline = run.parent.parent / "pipelines" / f"{run.name}.yaml"
    sims = ROOT / "target" / "release" / "sims"
    files = ["--html", folder / "report.html", "--tables", folder / "tables"]
    subprocess.run([sims, "report", pipeline, *files], check=True)
    return folder


class Page(HTMLParser):
    """What a browser made of the page: rows of the answers that are shown, headings, tables."""

    def __init__(self, text):
        super().__init__()
        self.answers, self.headings, self.tables = [], 0, 0
        self.form_hidden = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "tr" and "data-change" in attributes:
            self.answers.append({**attributes, "shown": "hidden" not in attributes})
        if tag == "form":
            self.form_hidden = "hidden" in attributes
        self.headings += tag == "h2"
        self.tables += tag == "table"

    def shown(self):
        return [answer for answer in self.answers if answer["shown"]]


def browse(folder, fragment="", *options):
    """Opens the page in a headless browser and returns what is printed, and what the console says."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=5000",
        "--enable-logging=stderr",
        "--v=0",
        *options,
        f"file://{folder / 'report.html'}{fragment}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


def test_the_page_needs_nothing_else(report):
    text = (report / "report.html").read_text()
    assert len(text) < 3_000_000
    # Prompts and answers of this run have no addresses in them.
    assert not re.search(r"https?://|@import|url\(|<link[^>]+stylesheet|\ssrc=", text)


@needs_chromium
def test_the_browser_finds_nothing_wrong_and_shows_every_part(report):
    text, console = browse(report, "", "--dump-dom")
    assert console == []
    page = Page(text)
    assert page.headings == 9
    assert page.tables >= 8
    assert page.form_hidden is False


def asked(folder):
    """Returns the addresses that the page in `folder` asks for; a local page has the origin `null`."""
    log = folder / "net.json"
    browse(folder, "", "--dump-dom", f"--log-net-log={log}")
    parameters = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # What the browser asks for by itself has no origin.
    return {p["url"] for p in parameters if "url" in p and p.get("initiator") == "null"}


@needs_chromium
def test_the_browser_asks_nobody(report, tmp_path):
    elsewhere = "http://elsewhere.invalid/picture.png"
    (tmp_path / "report.html").write_text(f"<!doctype html><title>control</title><img src='{elsewhere}'>")
    assert elsewhere in asked(tmp_path)
    assert [url for url in asked(report) if not url.startswith(("file:", "data:"))] == []


@needs_chromium
def test_filters_and_order_work(report):
    answers = pl.read_parquet(report / "tables" / "answers.parquet")
    last = answers.filter(pl.col("round") == pl.col("round").max())
    # Without a filter the last round is shown, and every row is there.
    page = Page(browse(report, "", "--dump-dom")[0])
    assert len(page.answers) == answers.height > 0
    assert len(page.shown()) == last.height
    # The fragment holds the state of the form.
    for change in ("improved", "worsened"):
        page = Page(browse(report, f"#answers&round=&change={change}&sort=worst", "--dump-dom")[0])
        expected = answers.filter(pl.col("change") == change)
        assert len(page.shown()) == expected.height
        assert {answer["data-change"] for answer in page.shown()} <= {change}
        differences = [float(answer["data-difference"]) for answer in page.shown()]
        assert differences == sorted(differences)
    word = last["base"].str.split(" ").explode().drop_nulls()[0]
    page = Page(browse(report, f"#answers&q={word}", "--dump-dom")[0])
    assert 0 < len(page.shown()) <= last.height
    page = Page(browse(report, "#answers&q=nothing-says-this", "--dump-dom")[0])
    assert page.shown() == []


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_pictures_can_be_taken(report, width):
    picture = report / f"{width}.png"
    browse(report, "", f"--screenshot={picture}", f"--window-size={width},1600")
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20], "big") == width
    # A page without content compresses to a few thousand bytes.
    assert len(data) > 30_000


def test_tables_are_those_of_the_page(report, run):
    text = (report / "report.html").read_text()
    named = set(re.findall(r"<code>(\w+)\.parquet</code>", text))
    there = {path.stem for path in (report / "tables").glob("*.parquet")}
    assert named == there
    for path in (report / "tables").glob("*.parquet"):
        columns = pl.read_parquet_schema(path).names()
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in columns), (path, columns)
    figures = pl.read_parquet(report / "tables" / "figures.parquet")
    metrics = pl.read_parquet(run / "round-2" / "metrics.parquet")
    same = figures.filter(node="steer-eval", round=2).select(metrics.columns)
    assert same["value"].to_list() == metrics["value"].to_list()


def test_the_notebook_rebuilds_the_figure(report, tmp_path):
    notebook = json.loads((ROOT / "examples" / "figure.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(cell["id"] and cell.get("outputs", []) == [] for cell in notebook["cells"])
    source = "\n\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    (tmp_path / "figure.py").write_text(source)
    environment = {**os.environ, "SIMS_TABLES": str(report / "tables"), "MPLBACKEND": "Agg"}
    subprocess.run([sys.executable, "figure.py"], check=True, cwd=tmp_path, env=environment)
    picture = (tmp_path / "figure.svg").read_text()
    curves = pl.read_parquet(report / "tables" / "curves.parquet").filter(panel="win_rate")
    # A container of error bars a series, with a bar a round.
    assert curves["series"].n_unique() == 3
    assert picture.count("id=\"LineCollection_") >= curves["series"].n_unique()
