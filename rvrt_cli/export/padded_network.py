# SPDX-License-Identifier: Apache-2.0
"""The network as it is exported: on a window of fixed length, which a scene may not fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.rvrt import RVRT


class PaddedRVRT(RVRT):
    """The network on a window in which clips may be missing: all their frames are `MISSING_FRAME`.

    A forward branch begins at the first clip if that of the state is missing, a backward branch at the last clip that is not.

    Attributes:
        present: by clip, -1 for that of the state: a Boolean, whether it has frames.
        choose: called with such a Boolean and two tensors: the first or, where it is false, the second; what is not chosen
            may be anything, NaN too.
    """

    present: dict[int, Any]
    choose: Callable[[Any, Any, Any], Any]

    def __init__(self, config: RVRTConfig):
        super().__init__(config)
        self._beginnings: dict[int, Any] = {}  # by branch: what is aligned to the clip at which it begins

    def _lead_in(self, index, window, features):  # type: ignore[no-untyped-def]
        if self.config.branches[index].startswith("backward") and self.config.lead_in:
            features = [self._last_present(window.in_reversed_time(name)) for name in window.features]
        self._beginnings[index] = super()._lead_in(index, window, features)
        return self._beginnings[index]

    def _align_clip(self, index, c, window, features):  # type: ignore[no-untyped-def]
        aligned = super()._align_clip(index, c, window, features)
        backward = self.config.branches[index].startswith("backward")
        if not backward and c > 0:
            return aligned
        if index not in self._beginnings:
            self._lead_in(index, window, [clips[c] for clips in window.features.values()])
        return self.choose(self.present[c + 1 if backward else -1], aligned, self._beginnings[index])

    def _last_present(self, clips):  # type: ignore[no-untyped-def]
        last = clips[0]
        for c, clip in enumerate(clips[1:], 1):
            last = self.choose(self.present[c], clip, last)
        return last
