"""The pages: their code runs and prints what they say, their links lead somewhere, what is generated is up to date."""

import fnmatch
import json
import re
import subprocess
import sys
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest

from docs.tools import code_map, figures, notebook, parameters, snippets
from model.common.commands import ROOT
from model.params import Params
from model.strategies import STRATEGIES

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
PAGES = sorted(ROOT / name for name in TRACKED if name.endswith(".md")) or sorted(ROOT.glob("**/*.md"))
WITH_CODE = [
    page for page in PAGES if any(block.language == "python" for block in snippets.blocks_of(page.read_text()))
]


def names_of(pages):
    return [page.relative_to(ROOT).as_posix() for page in pages]


def anchors_of(text):
    """The anchors of the headings of a page, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return found


def links_of(text):
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose))


def test_anchors_are_found_as_github_makes_them():
    text = "# One triplet\n## Why `x`, and (y)?\n```\n# no heading\n```\n### [Seen](a.md) and unseen\n"
    assert anchors_of(text) == ["one-triplet", "why-x-and-y", "seen-and-unseen"]


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_links_lead_to_files_and_headings(page):
    wrong = []
    for link in links_of(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    assert not wrong


def test_every_page_is_in_the_contents_of_the_site():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("\n")
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert all(any(fnmatch.fnmatch(page, line) for line in contents) for page in pages)
    listed = links_of((ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs" / "decisions").glob("0*.md"))


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    """As by `make docs`: a link to a file that is no page of the site is a warning."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-c", "docs", "--fail-on-warning", "--keep-going"]
    made = subprocess.run([*command, "-d", tmp_path / "read", ".", tmp_path / "site"], cwd=ROOT, capture_output=True)
    assert made.returncode == 0, made.stderr.decode()
    assert (tmp_path / "site" / "docs" / "index.html").exists()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=names_of(WITH_CODE))
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page):
    from model.networks.entries import NETWORKS
    from model.pictures import plots

    before = {id(entries): dict(entries) for entries in (STRATEGIES, NETWORKS, plots.PICTURES)}
    try:  # what a page adds is taken away again
        assert snippets.with_outputs(page) == page.read_text(encoding="utf-8")
    finally:
        for entries in (STRATEGIES, NETWORKS, plots.PICTURES):
            for added in entries.keys() - before[id(entries)].keys():
                del entries[added]


def test_few_snippets_are_not_run():
    left_out = [
        b for page in WITH_CODE for b in snippets.blocks_of(page.read_text()) if b.language == "python" and b.not_run
    ]
    assert len(left_out) <= 3 and all(len(block.not_run) > 10 for block in left_out)


def test_a_snippet_that_prints_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```output\n3\n```\n")
    assert snippets.with_outputs(page) == page.read_text().replace("3", "2")


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_parameters_in_pages_are_valid(page):
    for block in snippets.blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "json":
            content = json.loads(block.text)
            content.pop("$schema", None)
            Params(**content)


def test_the_parameters_are_those_of_the_schema():
    """If this fails: python -m docs.tools.parameters."""
    text = parameters.PAGE.read_text(encoding="utf-8")
    assert text == parameters.page()
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == set(Params.model_fields)


def test_the_code_map_is_that_of_the_code():
    """If this fails: python -m docs.tools.code_map."""
    text = code_map.PAGE.read_text(encoding="utf-8")
    assert text == code_map.with_listing(text)
    listed = set(re.findall(r"^- \[`[\w.]+`\]\(\.\./([\w/.]+)\)", text, re.M))
    there = {
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.py"), *ROOT.glob("model/*.py"), *ROOT.glob("model/*/*.py")]
        if path.name != "__init__.py" and "tests" not in path.parts
    }
    assert listed == there


@pytest.mark.slow
def test_pictures_are_drawn_as_they_are_committed(tmp_path):
    """If this fails: python -m docs.tools.figures, and python -m docs.tools.code_map."""
    figures.main(["--output_dir", str(tmp_path)])
    with matplotlib.rc_context({"svg.hashsalt": "rooms", "svg.fonttype": "path"}):
        code_map.picture().savefig(tmp_path / "rooms.svg", metadata={"Date": None})
    drawn = sorted(tmp_path.iterdir())
    assert len(drawn) == 6
    for path in drawn:
        # Versions of matplotlib differ in bytes; the shapes that there are do not.
        committed = figures.IMAGES / path.name
        kinds = [[element.tag for element in xml.etree.ElementTree.parse(p).iter()] for p in (path, committed)]
        assert kinds[0] == kinds[1], path.name


def test_the_pictures_of_the_tutorial_show_its_batch():
    page = notebook.PAGE.read_text(encoding="utf-8")
    (code,) = [block.text for block in snippets.blocks_of(page) if block.text.startswith("labels = ")]
    namespace = {"np": np}
    exec(code, namespace)
    assert np.array_equal(namespace["labels"], figures.LABELS)
    assert np.array_equal(namespace["embeddings"], figures.EMBEDDINGS) and namespace["margin"] == figures.MARGIN


def test_the_notebook_has_the_cells_of_the_page():
    """If this fails: python -m docs.tools.notebook."""
    cells = notebook.read(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    assert cells == notebook.cells_of(notebook.PAGE.read_text(encoding="utf-8"))
    assert sum(cell.kind == "code" for cell in cells) > 10


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.chdir(notebook.NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cells = notebook.read(notebook.NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook.run(cells) == cells
