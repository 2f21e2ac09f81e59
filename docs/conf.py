"""How the guide is built: ``sphinx-build -W --keep-going -n docs docs/_build/html``.

It needs no network.
"""

import importlib.metadata
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import inventory  # noqa: E402

project = "trio-run"
author = "the trio-run developers"
copyright = author  # noqa: A001 - Sphinx's name
release = version = importlib.metadata.version("trio-run")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "docstrings",
    "lessons",
    "pictures",
]
exclude_patterns = ["_build", "examples"]
nitpicky = True

# The docstrings say in words what a type would.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

# Of other projects' names we know those we speak of: see inventories.
intersphinx_mapping = {
    name: (url, inventory.compiled(HERE / "inventories" / f"{name}.txt", HERE / "_build"))
    for name, url in {
        "python": "https://docs.python.org/3",
        "trio": "https://trio.readthedocs.io/en/stable",
        "trio_websocket": "https://trio-websocket.readthedocs.io/en/stable",
        "hypercorn": "https://hypercorn.readthedocs.io/en/latest",
    }.items()
}

highlight_language = "none"  # each block says what it is
html_theme = "furo"
html_title = "trio-run"
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
