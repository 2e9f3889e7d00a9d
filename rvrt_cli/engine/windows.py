# SPDX-License-Identifier: Apache-2.0
"""Cut a stream of frames into windows: consecutive frames of one scene that come out, and those after them that are seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from rvrt_cli.frame import Frame


@dataclass(frozen=True)
class Window:
    """The frames of one round of network calls: `frames[:emit]` come out, the rest is lookahead.

    Beyond the lookahead, frame fusion alone sees the last `fusion_lookahead` of the frames.
    """

    frames: list[Frame]  # all of one scene
    emit: int
    first: int  # index of frames[0] in the stream
    starts_scene: bool  # no state is carried into it
    ends_scene: bool  # none is carried out of it
    fusion_lookahead: int = 0


def cut_windows(
    marked: Iterable[tuple[Frame, bool]], window: int, lookahead: int, fusion_lookahead: int = 0
) -> Iterator[Window]:
    """Windows of `window` frames + `lookahead` frames, in order, every frame emitted by exactly one of them.

    Where a scene ends within the lookahead, the window emits all that is left: the call is no larger than the others,
    sees all there is to see, and no short window remains. So a window emits at most `window + lookahead` frames, and only
    the last one of a scene emits another number than `window`. What frame fusion sees beyond changes none of that: where a
    scene ends there, the window has fewer such frames. At most `window + lookahead + fusion_lookahead + 1` frames are held.

    Args:
        marked: frames, each with whether a scene starts with it (the first one does in any case).
        window: frames to emit at a time; 0: a whole scene at once, however long.
        lookahead: frames of the future within the same scene.
        fusion_lookahead: frames beyond these, for frame fusion alone.

    Raises:
        ValueError: a negative number.
    """
    if min(window, lookahead, fusion_lookahead) < 0:
        raise ValueError(f"window {window} and lookahead {lookahead} + {fusion_lookahead} must not be negative")
    held: list[Frame] = []
    first = 0
    starts_scene = True
    for frame, cut in chain(marked, [(None, True)]):
        while held and (cut or (window and len(held) == window + lookahead + fusion_lookahead)):
            beyond = len(held) - window - lookahead
            ends_scene = cut and (window == 0 or beyond <= 0)  # else the scene goes on behind the lookahead
            emit, beyond = (len(held), 0) if ends_scene else (window, beyond)
            yield Window(held, emit, first, starts_scene, ends_scene, beyond)
            first += emit
            held, starts_scene = held[emit:], ends_scene
        if frame is not None:
            held.append(frame)
