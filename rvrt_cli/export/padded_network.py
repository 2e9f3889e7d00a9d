# SPDX-License-Identifier: Apache-2.0
"""The network as it is exported: on a window of fixed length, which a scene may not fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rvrt_cli.model.rvrt import RVRT


class PaddedRVRT(RVRT):
    """The network on a window in which clips may be missing: all their frames are `MISSING_FRAME`.

    A branch starts with zeros at the first clip of its direction, be that where the window ends or earlier.

    Attributes:
        present: by clip, -1 for that of the state: a Boolean, whether it has frames.
        keep_if: called with such a Boolean and features: these or, where it is false, zeros.
    """

    present: dict[int, Any]
    keep_if: Callable[[Any, Any], Any]

    def _align_clip(self, index, c, window, features):  # type: ignore[no-untyped-def]
        aligned = super()._align_clip(index, c, window, features)
        before = c + 1 if self.config.branches[index].startswith("backward") else c - 1
        return self.keep_if(self.present[before], aligned)
