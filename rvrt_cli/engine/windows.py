# SPDX-License-Identifier: Apache-2.0
"""Cut a stream of frames into windows: consecutive frames of one scene that come out, and the lookahead after them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rvrt_cli.frame import Frame


@dataclass(frozen=True)
class Window:
    """The frames of one round of network calls: `frames[:emit]` come out, the rest is lookahead."""

    frames: list[Frame]  # all of one scene
    emit: int
    first: int  # index of frames[0] in the stream
    starts_scene: bool  # no state is carried into it
    ends_scene: bool  # none is carried out of it


def cut_windows(marked: Iterable[tuple[Frame, bool]], window: int, lookahead: int) -> Iterator[Window]:
    """Windows of `window` frames + `lookahead` frames, in order, every frame emitted by exactly one of them.

    Where a scene ends within the lookahead, the window emits all that is left: the call is no larger than the others,
    sees all there is to see, and no short window remains. So a window emits at most `window + lookahead` frames, and only
    the last one of a scene emits another number than `window`. At most `window + lookahead + 1` frames are held.

    Args:
        marked: frames, each with whether a scene starts with it (the first one does in any case).
        window: frames to emit at a time; 0: a whole scene at once, however long.
        lookahead: frames of the future within the same scene.

    Raises:
        ValueError: a negative number.
    """
    if window < 0 or lookahead < 0:
        raise ValueError(f"window {window} and lookahead {lookahead} must not be negative")
    held: list[Frame] = []
    first = 0
    starts_scene = True
    for frame, cut in marked:
        if cut and held:
            yield Window(held, len(held), first, starts_scene, ends_scene=True)
            first += len(held)
            held, starts_scene = [], True
        elif window and len(held) == window + lookahead:  # and the scene goes on: there is a frame beyond the lookahead
            yield Window(held, window, first, starts_scene, ends_scene=False)
            first += window
            held, starts_scene = held[window:], False
        held.append(frame)
    if held:
        yield Window(held, len(held), first, starts_scene, ends_scene=True)
