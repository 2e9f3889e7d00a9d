# SPDX-License-Identifier: Apache-2.0
"""RVRT and RVRT Light (Liang et al., "Recurrent Video Restoration Transformer with Guided Deformable Attention", 2022).

N batch, T frames of a clip, H×W size of the features [px], C channels. Pixels are RGB in [0, 1]. A video is a list of clips,
one channels-last tensor (N, T, H, W, C) each. Frames have the features' size and come out four times as large, or, in the
networks for restoration (scale 1), four times that size in and out; these reduce them in two convolutions, and see reduced
frames for the optical flow. The stages are compiled, once per frame size; the recurrence over clips runs in
Python. Calls do not change the network: the recurrent state is an argument and a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mindspore import Tensor, nn, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.alignment import compose_flows, still_flows
from rvrt_cli.model.blocks import parameters
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.network_parts import Align, Branch, Extract, Reconstruct
from rvrt_cli.model.optical_flow import estimate_flow, fuse_neighbors, reduce_colors
from rvrt_cli.model.outline import MISSING_FRAME
from rvrt_cli.model.weight_shapes import spynet_shapes

Clips = list[Tensor]  # one tensor (N, T, H, W, C) per clip, in time order
_SHALLOW_WORK = 0.7  # of flow, frame fusion and shallow features of a clip, in units of a branch or the reconstruction


@dataclass(frozen=True)
class RecurrentState:
    """State after the last emitted frame, from which the next window continues.

    Attributes:
        frames: (N, `history`, H, W, 3), the last input frames (reduced); the flow across the window border is estimated from
            them.
        features: by branch (N, T, H, W, C), of the last clip.
    """

    frames: Tensor
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Flows:
    """Optical flow between adjacent frames, by clip; (N, T, H, W, 2) px.

    Attributes:
        forward: `forward[c]` leads from each frame of clip c to the frame before it.
        backward: `backward[c]` leads to each frame of clip c from the frame before it; frames in reversed time.
        past: forward flow of the last clip of the state, or None.

    The first frame of the sequence has no predecessor: its entries are meaningless and never used.
    """

    forward: Clips
    backward: Clips
    past: Tensor | None

    def forward_to(self, c: int) -> Tensor:
        """(N, 2T-1, H, W, 2): steps back in time through clip c and the previous clip."""
        before: Tensor = self.forward[c - 1] if c > 0 else self.past
        return ops.concat((before[:, 1:], self.forward[c]), 1)

    def backward_to(self, c: int) -> Tensor:
        """The same in reversed time: steps forward in time through clip c and the next clip."""
        return ops.concat((self.backward[c + 1], self.backward[c][:, :-1]), 1)


class _CallProgress:
    """How much of a call is done.

    Args:
        work: of the whole call, in units of a clip's work in one branch.
        on_share: called with the share that is done.
    """

    def __init__(self, work: float, on_share: Callable[[float], None] | None) -> None:
        self._work, self._on_share = work, on_share
        self._done = 0.0

    def advance(self, work: float = 1.0) -> None:
        """Count work that is done."""
        self._done += work
        if self._on_share is not None:
            self._on_share(min(1.0, self._done / self._work))


@dataclass
class _WindowPass:
    """Intermediate results of one call.

    Attributes:
        progress: of the call.
        features: by "shallow" and branch, in the order of computation.
        reversed: the same clips with their frames in reversed time, as far as a backward branch has needed or made them.
        trained: clips between the context, which have a gradient.
        guides: by direction ("backward", "forward") and clip, the flows to the adjacent clip as the first pass corrected
            them; the second pass reads them.
    """

    progress: _CallProgress
    state: RecurrentState | None
    flows: Flows | None
    features: dict[str, Clips]
    trained: range
    reversed: dict[str, Clips] = field(default_factory=dict)
    guides: dict[str, dict[int, Tensor]] = field(default_factory=lambda: {"backward": {}, "forward": {}})

    def with_gradient(self, c: int, features: Tensor) -> Tensor:
        """`features` of clip c, without gradient if it belongs to the context."""
        return features if c in self.trained else msops.stop_gradient(features)

    def in_reversed_time(self, name: str) -> Clips:
        """The clips of `features[name]`, each with its frames in reversed time."""
        if name not in self.reversed:
            self.reversed[name] = [ops.reverse_time(clip) for clip in self.features[name]]
        return self.reversed[name]


class RVRT(nn.Cell):
    """The network: shallow features, recurrent branches over clips, reconstruction.

    Parameters have their published names and are zero at first: `load` weights before use.

    Attributes:
        on_share: called with the share of a call that is done, from 0 to 1, after each part of it.
    """

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.on_share: Callable[[float], None] | None = None
        self.extract = Extract(config)
        self.spynet = parameters(spynet_shapes() if config.spynet else [])
        self.align = nn.CellList([Align(branch, config) for branch in config.branches], auto_prefix=False)
        branches = [Branch(branch, i + 1, config) for i, branch in enumerate(config.branches)]
        self.branches = nn.CellList(branches, auto_prefix=False)
        self.reconstruct = Reconstruct(config)

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the parameters' values, by name.

        In place: `set_data` would not reach compiled stages, and would leave the values in the host's memory, from where a
        GPU copies them at every use.
        """
        for parameter in self.get_parameters():
            msops.assign(parameter, Tensor(arrays[parameter.name], parameter.dtype))

    def construct(self, frames: Tensor, mirrored: bool = False, context: int = 0) -> Tensor:
        """Upscale or restore a whole sequence in one call, as published.

        Args:
            frames: (N, T, R * H, R * W, S) in [0, 1], T ≥ 1, H and W ≥ 8; R is the reduction, S the input's channels.
            mirrored: the second half of the sequence is the first half reversed, so that the forward flow can be read off
                the backward flow.
            context: frames at either end, in training; whole clips. Frame fusion sees them, and the recurrence crosses them
                without gradient, so that the frames between find it as in a longer video.

        Returns:
            (N, T - 2 * context, 4H, 4W, 3), not clamped.
        """
        emit = frames.shape[1] - 2 * context
        upscaled, _ = self.stream_clips(frames, None, emit, mirrored, context)
        return _first_frames(upscaled, emit)

    def stream(
        self, frames: Tensor, state: RecurrentState | None, emit: int, fusion_lookahead: int = 0
    ) -> tuple[Tensor, RecurrentState]:
        """Upscale the first `emit` frames of a window, continuing from the state after the previous window.

        Args:
            frames: as in `construct`; frames past `emit` are lookahead.
            state: None at the start of a sequence.
            emit: 1 ≤ emit ≤ T - `fusion_lookahead`; a multiple of the clip size unless the sequence ends there.
            fusion_lookahead: number of the last frames, past the lookahead, that frame fusion alone sees; those before them
                are whole clips.

        Returns:
            (N, emit, 4H, 4W, 3), not clamped; the state after frame `emit`.
        """
        upscaled, after = self.stream_clips(frames, state, emit, fusion_lookahead=fusion_lookahead)
        return _first_frames(upscaled, emit), after

    def stream_clips(
        self,
        frames: Tensor,
        state: RecurrentState | None,
        emit: int,
        mirrored: bool = False,
        context: int = 0,
        fusion_lookahead: int = 0,
    ) -> tuple[Iterator[Tensor], RecurrentState]:
        """`stream`, one clip after the other: each is reconstructed when the iterator is asked for it.

        Args:
            mirrored: as in `construct`; needs `state` None.
            context: as in `construct`; needs `state` None, and all other frames emitted.

        Returns:
            clips (N, T, 4H, 4W, 3) that cover the first `emit` frames, the last one with frames beyond them if need be; the
            state after frame `emit`.
        """
        config = self.config
        clips = self._clips(frames)
        within = len(clips) - -(-fusion_lookahead // config.clip_size)
        clips, beyond = clips[:within], clips[within:]
        edge = context // config.clip_size
        emitted = -(-emit // config.clip_size)  # clips
        mirrored = mirrored and state is None and frames.shape[1] % config.clip_size == 0
        # Flow, extraction and reconstruction know no clips. In training one call takes the whole sequence: fewer and larger
        # calls are faster, and the gradient keeps all activations anyway.
        at_once = self.training and state is None and emitted == len(clips) - 2 * edge
        first = min(edge, 1) if at_once else edge  # part that is reconstructed first
        parts = _before_within_after(clips, edge) if at_once else clips
        reduced = [reduce_colors(part) for part in parts] if config.reduction > 1 else parts
        flows = (
            self._estimate_flows([_joined(reduced)] if at_once else reduced, state, mirrored) if config.flow else None
        )
        fusions = self._fuse_neighbors(parts, state, beyond) if config.fused_neighbors else [None] * len(parts)

        # Nothing reads the lookahead of a last forward branch.
        counts = [
            edge + emitted if index == config.passes - 1 and branch.startswith("forward") else len(clips)
            for index, branch in enumerate(config.branches)
        ]
        starting = [branch for branch in config.branches if state is None or branch.startswith("backward")]
        work = len(clips) * _SHALLOW_WORK + len(starting) * config.lead_in + sum(counts) + emitted
        progress = _CallProgress(work, self.on_share)
        shallow = [self.extract(part, one) for part, one in zip(parts, fusions, strict=True)]
        progress.advance(len(clips) * _SHALLOW_WORK)
        window = _WindowPass(progress, state, flows, {}, trained=range(edge, len(clips) - edge))
        window.features["shallow"] = [window.with_gradient(c, clip) for c, clip in enumerate(self._in_clips(shallow))]
        for index, branch in enumerate(config.branches):
            window.features[branch] = self._propagate(index, window, counts[index])

        refined = [window.features[branch][edge : edge + emitted] for branch in config.branches]
        if at_once:
            refined = [[_joined(branch)] for branch in refined]

        def reconstructed() -> Iterator[Tensor]:
            for c in range(1 if at_once else emitted):
                part = parts[first + c], fusions[first + c], shallow[first + c]
                yield self.reconstruct(*part, *[branch[c] for branch in refined])
                progress.advance()

        features = {branch: window.features[branch][edge + emitted - 1] for branch in config.branches}
        return reconstructed(), RecurrentState(frames=self._history(reduced[:emitted], state), features=features)

    def _propagate(self, index: int, window: _WindowPass, count: int) -> Clips:
        """Run branch `index` over the first `count` clips (section 4.2).

        A forward branch continues from the state; a backward branch restarts at the end of the window, on clips whose frames
        are reversed. The last features computed so far are the branch's own input.

        Returns:
            the branch's features, in time order.
        """
        branch = self.config.branches[index]
        backward = branch.startswith("backward")
        sources = (
            [window.in_reversed_time(name) for name in window.features] if backward else [*window.features.values()]
        )
        key = propagated = None
        if window.state is not None and not backward:
            key, propagated = window.state.features[list(window.features)[-1]], window.state.features[branch]
        outputs = []
        for c in range(count - 1, -1, -1) if backward else range(count):
            query, features = sources[-1][c], [clips[c] for clips in sources]
            if propagated is None:
                aligned = self._lead_in(index, window, features)
            else:
                aligned = self._align_clip(index, c, window, (query, key, propagated))
            propagated = window.with_gradient(c, self.branches[index](aligned, *features))
            outputs.append(propagated)
            window.progress.advance()
            key = query
        if not backward:
            return outputs
        if any(later.startswith("backward") for later in self.config.branches[index + 1 :]):
            window.reversed[branch] = outputs[::-1]
        else:
            window.reversed.clear()  # nothing reads them any more
        return [ops.reverse_time(clip) for clip in outputs[::-1]]

    def _lead_in(self, index: int, window: _WindowPass, features: Clips) -> Tensor:
        """What is aligned to the first clip of a branch: nothing, or what `lead_in` repetitions of that clip propagate.

        Args:
            features: of the first clip, input of the branch, in its direction.
        """
        query = features[-1]
        aligned = ops.zeros_like(query)
        still = still_flows(query) if self.config.flow and self.config.lead_in else None
        for _ in range(self.config.lead_in):
            propagated = self.branches[index](aligned, *features)
            aligned, _ = self.align[index](query, query, propagated, still)
            window.progress.advance()
        return aligned

    def _align_clip(self, index: int, c: int, window: _WindowPass, features: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The features propagated from the previous clip of the direction, aligned to clip c (section 4.3).

        Args:
            features: query of clip c, key and propagated features of the previous clip; see `align_deformable`.
        """
        direction = self.config.branches[index].split("_")[0]
        guides = window.guides[direction]
        if window.flows is not None and c not in guides:
            guide = self._compose_guide(window.flows, c, direction == "backward")
            aligned, guides[c] = self.align[index](*features, guide)
        else:
            aligned, _ = self.align[index](*features, guides.get(c))
        return aligned

    def _compose_guide(self, flows: Flows, c: int, backward: bool) -> Tensor:
        """(N, T, T, H, W, 2) px: the flows that guide the offsets from clip c to the previous clip of the direction."""
        return compose_flows(flows.backward_to(c) if backward else flows.forward_to(c), self.config.clip_size)

    def _clips(self, frames: Tensor) -> Clips:
        """(N, T, …) → clips; the last frame is repeated to fill the last clip."""
        size = self.config.clip_size
        missing = -frames.shape[1] % size
        if missing:
            frames = ops.concat((frames, *[frames[:, -1:]] * missing), 1)
        return list(ops.split(frames, size, 1))

    def _in_clips(self, parts: list[Tensor]) -> Clips:
        """`parts` of whole clips, one after the other, as clips."""
        size = self.config.clip_size
        return [clip for part in parts for clip in ([part] if part.shape[1] == size else ops.split(part, size, 1))]

    def _history(self, clips: Clips, state: RecurrentState | None) -> Tensor:
        """The last `history` frames, `MISSING_FRAME` before the start of the sequence."""
        length = self.config.history
        missing = ops.full_like(clips[0][:, :1], MISSING_FRAME)
        past = missing.tile((1, length, 1, 1, 1)) if state is None else state.frames
        frames = ops.concat((past, *clips), 1)
        return frames[:, frames.shape[1] - length :]

    def _fuse_neighbors(
        self, parts: list[Tensor], state: RecurrentState | None, beyond: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """Frame fusion of each part of the window, whole clips (N, T, H, W, 3), with its neighboring frames.

        Args:
            beyond: clips past the window, neighbors like the others.
        """
        reach, fused = self.config.fused_neighbors, []
        missing = [ops.full_like(parts[0][:, :1], MISSING_FRAME)] * reach
        video = ops.concat((*(missing if state is None else [state.frames]), *parts, *beyond, *missing), 1)
        start = (reach if state is None else state.frames.shape[1]) - reach
        for part in parts:
            length = part.shape[1]
            fused.append(fuse_neighbors(video[:, start : start + length + 2 * reach], reach))
            start += length
        return fused

    def _estimate_flows(self, parts: list[Tensor], state: RecurrentState | None, mirrored: bool) -> Flows:
        """Optical flow along the parts of the window, whole clips, and along the last clip of the state."""
        size, weights = self.config.clip_size, ops.arguments(self.spynet)
        # A reversed part ends with the frame that has none before it.
        before = ops.reverse_time(parts[0]) if state is None else state.frames[:, -size:]
        forward, backward = [], []
        for part in parts:
            pair = estimate_flow(before, part, not mirrored, *weights)
            forward += self._in_clips([pair[0]])
            backward += self._in_clips([pair[1]])[::-1]
            before = part
        if mirrored:  # of L frames, the flow from p to p-1 equals that from L-p-1 to L-p
            turned = ops.concat(backward[::-1], 1)
            forward = list(ops.split(ops.concat((turned[:, -1:], turned[:, :-1]), 1), size, 1))
        if state is None:
            return Flows(forward=forward, backward=backward, past=None)
        clip = state.frames[:, -size:]
        past, _ = estimate_flow(ops.reverse_time(clip), clip, True, *weights)
        return Flows(forward=forward, backward=backward, past=past)


def _before_within_after(clips: Clips, edge: int) -> list[Tensor]:
    """The first `edge` clips, those between and the last `edge` clips, (N, T, H, W, 3) each; all in one if `edge` is 0."""
    groups = clips[:edge], clips[edge : len(clips) - edge], clips[len(clips) - edge :]
    return [_joined(group) for group in groups if group]


def _first_frames(clips: Iterable[Tensor], count: int) -> Tensor:
    """The first `count` frames of the clips as one tensor; nothing is copied where one clip has just those."""
    frames = _joined(list(clips))
    return frames if frames.shape[1] == count else frames[:, :count]


def _joined(clips: Clips) -> Tensor:
    """(N, T, H, W, C) of all clips, one after the other."""
    return clips[0] if len(clips) == 1 else ops.concat(clips, 1)
