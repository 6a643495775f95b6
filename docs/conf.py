"""Sphinx configuration: `make docs` writes docs/_build/html."""

project = "pairloom"
author = "The pairloom authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "pairloom"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
