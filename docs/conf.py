"""Sphinx configuration: `make docs` writes docs/_build/html."""

project = "pairloom"
author = "The pairloom authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3  # a heading is found by its words, as on GitHub
html_theme = "furo"
html_title = "pairloom"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
