"""The site: `sphinx-build -W docs site`."""

import re

import masklib

project, author, release = "masklib", "The masklib authors", masklib.__version__
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
html_theme = "furo"
html_title = "masklib"
exclude_patterns = ["gallery", "examples"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

default_role = "literal"  # single backticks of docstrings are code
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch have no page here; links between pages are checked by MyST

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "pictures",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(^|/)digits\.py$",  # what the pictures share
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 5,
    "abort_on_example_error": True,
}


def formulas_stand_alone(app, what, name, obj, options, lines):
    """Set what is indented in the prose of a docstring, its formulas and calls, as it is written."""
    out, sections = [], False
    for before, line in zip(["", *lines], lines):
        sections = sections or re.fullmatch(r"(Args|Returns|Raises|Yields|Reference|References|Attributes):", line)
        if not sections and line.startswith("    ") and not before.strip():
            out += ["::", ""]
        out.append(line)
    lines[:] = out


def setup(app):
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", formulas_stand_alone, priority=100)
