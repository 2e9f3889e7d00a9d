# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_PLACE = "/*DATA*/"


def page_html(data: dict[str, Any]) -> str:
    """page.html with its data; text in it, such as file names, cannot end the element that holds them."""
    template = resources.files("rvrt_cli.compare").joinpath("page.html").read_text(encoding="utf-8")
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return template.replace(_PLACE, text.replace("<", "\\u003c").replace("\u2028", "\\u2028"))
