"""How Sphinx makes the site: `make docs`. The pages are the Markdown files of the repository, where they are.

The site needs no network: fonts are those of the system, and formulas are MathML, which browsers draw themselves.
"""

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxTranslator

ROOT = Path(__file__).parents[1]

project = "triplet-embeddings"
author = copyright = "Triplet Embeddings maintainers"
root_doc = "docs/index"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}

# The whole repository is looked into, for pages link to each other wherever they lie; these are the pages.
include_patterns = [
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md", "experiments/README.md", "docs/**.md",
    "benchmarks/results/**.md",
]  # fmt: skip
exclude_patterns = ["data/*/**", "data/*[!d]", "experiments/*/**", "site", "docs/tools", "model", ".*"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

suppress_warnings = ["toc.not_included"]  # decisions are listed by their own page

html_theme = "furo"
html_title = "Triplet embeddings"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
highlight_language = "none"


def math_as_mathml(self: SphinxTranslator, node: nodes.Element) -> None:
    """Writes a formula as MathML."""
    is_block = isinstance(node, nodes.math_block)
    markup = tex2mathml(node.astext().replace(r"\text{", r"\mathrm{"), as_block=is_block)
    self.body.append(f'<div class="formula">{markup}</div>' if is_block else markup)
    raise nodes.SkipNode


def link_folders(app: Sphinx, page: str, source: list[str]) -> None:
    """Lets a link to a folder of code lead to the file in it that says what the folder is for."""
    folder = (ROOT / page).parent

    def lead(found: re.Match[str]) -> str:
        target = folder / found[1]
        for name in ("index.md", "README.md", "__init__.py"):
            if target.is_dir() and (target / name).is_file():
                return f"]({found[1].rstrip('/')}/{name})"
        return found[0]

    source[0] = re.sub(r"\]\(([^)#:\s]+)\)", lead, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds both."""
    app.add_html_math_renderer("mathml", (math_as_mathml, None), (math_as_mathml, None))
    app.connect("source-read", link_folders)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


html_math_renderer = "mathml"
