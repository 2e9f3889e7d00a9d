# SPDX-License-Identifier: Apache-2.0
"""RVRT and RVRT Light (Liang et al., "Recurrent Video Restoration Transformer with Guided Deformable Attention", 2022).

N batch, T frames of a clip, H×W frame size [px], C channels. Pixels are RGB in [0, 1]. A video is a list of clips; within
the network features are channels-last, one tensor (N, T, H, W, C) per clip. The stages are compiled, once per frame size;
the recurrence over clips runs in Python. Nothing here writes to the network: state goes in and comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import ParameterTuple, Tensor, nn, ops as msops

from rvrt_cli import ops
from rvrt_cli.model.alignment import (
    align_deformable,
    align_neighborhood,
    align_unguided,
    attention_shapes,
    compose_flows,
    deformable_shapes,
)
from rvrt_cli.model.blocks import (
    Shapes,
    Sizes,
    conv_shapes,
    convolve,
    convolve_onto,
    convolve_shapes,
    merge,
    parameters,
    refine,
    refine_shapes,
)
from rvrt_cli.model.config import RVRTConfig
from rvrt_cli.model.optical_flow import ABSENT, estimate_flow, fuse_neighbors
from rvrt_cli.model.spynet import spynet_shapes
from rvrt_cli.ops.fusion import FUSED_CHANNELS

Clips = list[Tensor]  # one tensor (N, T, H, W, C) per clip, in time order


@dataclass(frozen=True)
class RecurrentState:
    """What the last emitted frames leave, so that the next window continues from there.

    Attributes:
        frames: (N, `history`, H, W, 3) input; the flow across the border is estimated from it.
        features: per branch (N, T, H, W, C), of the last clip.
    """

    frames: Tensor
    features: dict[str, Tensor]


@dataclass(frozen=True)
class Flows:
    """Optical flow between adjacent frames, a clip at a time; (N, T, H, W, 2) px.

    `forward[c]` points from each frame of clip c to the frame before it, `backward[c]` from the frame before to that frame;
    the sequence's first frame has none before it, and its entries are meaningless. `past` is the forward flow of the clip
    that the state ends with.
    """

    forward: Clips
    backward: Clips
    past: Tensor | None

    def forward_to(self, c: int) -> Tensor:
        """(N, 2T-1, H, W, 2): the steps back in time through clip c and the one before it."""
        before: Tensor = self.forward[c - 1] if c > 0 else self.past
        return msops.concat((before[:, 1:], self.forward[c]), 1)

    def backward_to(self, c: int) -> Tensor:
        """The same with time reversed: the steps on through clip c and the one after it."""
        return msops.concat((ops.reverse_time(self.backward[c + 1]), ops.reverse_time(self.backward[c][:, 1:])), 1)


class Extract(nn.Cell):
    """Shallow features of a clip (section 4.1)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.conv = parameters(conv_shapes("feat_extract.main.1", 3, config.widths[0], 3))
        fused = conv_shapes("feat_extract.fused", FUSED_CHANNELS, config.widths[0], 3)
        self.fused = parameters(fused if config.fused_neighbors else [])
        self.body = parameters(body_shapes("feat_extract", config, 0))

    def construct(self, frames: Tensor, fused: Tensor | None = None) -> Tensor:
        """(N, T, H, W, 3), and the result of `fuse_neighbors` or None → (N, T, H, W, C)."""
        x = merge(*ops.arguments(self.conv), frames)
        if fused is not None:
            x = convolve_onto(x, fused, *ops.arguments(self.fused))
        return body(x, self.config, 0, self.body)


class Align(nn.Cell):
    """One branch's alignment of what is propagated."""

    def __init__(self, branch: str, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        shapes = attention_shapes if config.alignment == "neighborhood" else deformable_shapes
        self.weights = parameters(shapes(f"deform_align.{branch}", config))

    def construct(self, query: Tensor, key: Tensor, value: Tensor, flows: Tensor | None) -> tuple:
        """Aligned features (N, T, H, W, C) and the flows, corrected where there are any."""
        config, weights = self.config, ops.arguments(self.weights)
        if config.alignment == "neighborhood":
            return align_neighborhood(query, key, value, (config.align_heads, config.align_kernel), *weights), None
        sizes = (config.align_heads, config.align_kernel, config.deformable_groups)
        if flows is None:
            return align_unguided(query, key, value, sizes, config.max_offset, *weights), None
        return align_deformable(query, key, value, flows, sizes, config.max_offset, *weights)


class Branch(nn.Cell):
    """One branch's refinement of a clip (equations 3 to 5)."""

    def __init__(self, branch: str, sources: int, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        name, width = f"backbone.{branch}", config.width
        self.config = config
        self.conv = parameters(conv_shapes(f"{name}.main.1", (sources + 1) * width, width, 3))
        self.body = parameters(body_shapes(name, config, 1))

    def construct(self, propagated: Tensor, *features: Tensor) -> Tensor:
        """What is propagated to the clip and its features so far, each (N, T, H, W, C) → (N, T, H, W, C)."""
        if self.config.carry != 1:
            propagated = self.config.carry * propagated
        return propagated + body(merge(*ops.arguments(self.conv), *features, propagated), self.config, 1, self.body)


class Reconstruct(nn.Cell):
    """Refinement of all features, upsampling and the bilinear residual (section 4.4)."""

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        width, wide = config.widths[2], config.upsampler_width
        self.config = config
        self.conv = parameters(conv_shapes("reconstruction.main.1", (1 + config.passes) * config.width, width, 3))
        self.body = parameters(body_shapes("reconstruction", config, 2))
        upsampler = [
            *conv_shapes("conv_before_upsampler.0", width, wide, 1),
            *conv_shapes("upsampler.0", wide, 4 * wide, 3),
            *conv_shapes("upsampler.5", wide, 4 * wide, 3),
            *conv_shapes("upsampler.10", wide, wide, 3),
            *conv_shapes("conv_last", wide, 3, 3),
        ]
        places = 3 * config.scale**2  # output samples per input pixel
        self.head = parameters(upsampler if wide else conv_shapes("conv_last", width, places, 3))
        fused = conv_shapes("conv_last.fused", places, places, 3)
        self.fused = parameters(fused if config.fused_neighbors and not wide else [])

    def construct(self, frames: Tensor, fused: Tensor | None, *features: Tensor) -> Tensor:
        """Input (N, T, H, W, 3), the result of `fuse_neighbors` or None, and the features (N, T, H, W, C) of all branches.

        Returns:
            (N, T, 4H, 4W, 3), not clamped.
        """
        x = body(merge(*ops.arguments(self.conv), *features), self.config, 2, self.body)
        if self.config.upsampler_width:
            return upsample(frames, x, *ops.arguments(self.head))
        places = merge(*ops.arguments(self.head), x)
        if fused is not None:
            places = convolve_onto(places, fused[..., : places.shape[-1]], *ops.arguments(self.fused))
        return upsample_pixels(frames, places)


def body_shapes(name: str, config: RVRTConfig, part: int) -> Shapes:
    """Weights of `body`."""
    if config.bodies[part] == "convolution":
        return convolve_shapes(name, config.widths[part], config.groups[part] * config.depths[part])
    return refine_shapes(name, config.widths[part], _body_sizes(config, part), config.mlp_ratio)


def body(x: Tensor, config: RVRTConfig, part: int, weights: ParameterTuple) -> Tensor:
    """Refine (N, T, H, W, C) in extraction (part 0), a branch (1) or reconstruction (2)."""
    if config.bodies[part] == "convolution":
        return convolve(x, *ops.arguments(weights))
    return refine(x, _body_sizes(config, part), *ops.arguments(weights))


def _body_sizes(config: RVRTConfig, part: int) -> Sizes:
    window = (config.clip_size if part == 1 else 1, config.window, config.window)  # a branch's span the clip
    return config.groups[part], config.depths[part], config.heads[part], window, config.relative_position_bias


@ops.compiled
def upsample(frames: Tensor, x: Tensor, *weights: Tensor) -> Tensor:
    """Upsample refined features (section 4.4): input (N, T, H, W, 3), features (N, T, H, W, C) → (N, T, 4H, 4W, 3)."""
    before_w, before_b, up1_w, up1_b, up2_w, up2_b, hr_w, hr_b, last_w, last_b = weights
    batch, time, height, width, channels = x.shape
    frames = frames.reshape(batch * time, height, width, 3)
    x = ops.conv2d(x.reshape(batch * time, height, width, channels), before_w, before_b, "leaky_relu")
    x = ops.pixel_shuffle(ops.conv2d(x, up1_w, up1_b), 2, "leaky_relu")  # (N·T, 2H, 2W, C)
    x = ops.pixel_shuffle(ops.conv2d(x, up2_w, up2_b), 2, "leaky_relu")  # (N·T, 4H, 4W, C)
    x = ops.conv2d(ops.conv2d(x, hr_w, hr_b), last_w, last_b)
    return ops.add_upsampled(x, frames).reshape(batch, time, 4 * height, 4 * width, 3)


@ops.compiled
def upsample_pixels(frames: Tensor, places: Tensor) -> Tensor:
    """`upsample` at a fraction of the cost: one convolution gives all 4x4 output pixels of an input pixel, (N, T, H, W, 48)."""
    batch, time, height, width, channels = places.shape
    frames = frames.reshape(batch * time, height, width, 3)
    pixels = ops.pixel_shuffle(places.reshape(batch * time, height, width, channels), 4)
    return ops.add_upsampled(pixels, frames).reshape(batch, time, 4 * height, 4 * width, 3)


class RVRT(nn.Cell):
    """The network: shallow features, recurrent branches over clips, reconstruction.

    Parameters carry their published names and start at zero; load weights before use.
    """

    def __init__(self, config: RVRTConfig):
        super().__init__(auto_prefix=False)
        self.config = config
        self.extract = Extract(config)
        self.spynet = parameters(spynet_shapes() if config.spynet else [])
        self.align = nn.CellList([Align(branch, config) for branch in config.branches], auto_prefix=False)
        self.branches = nn.CellList(
            [Branch(branch, i + 1, config) for i, branch in enumerate(config.branches)], auto_prefix=False
        )
        self.reconstruct = Reconstruct(config)

    def construct(self, frames: Tensor, mirrored: bool = False) -> Tensor:
        """Upscale a whole sequence at once, as published.

        Args:
            frames: (N, T, H, W, 3) in [0, 1], T ≥ 1, H and W ≥ 8.
            mirrored: the second half of this call's sequence is the first half reversed, so that one direction of the
                flow can be read off the other.

        Returns:
            (N, T, 4H, 4W, 3), not clamped.
        """
        output, _ = self.stream(frames, None, frames.shape[1], mirrored)
        return output

    def stream(
        self, frames: Tensor, state: RecurrentState | None, emit: int, mirrored: bool = False
    ) -> tuple[Tensor, RecurrentState]:
        """Upscale the first `emit` frames of a window, continuing from the state that the window before it left.

        Args:
            frames: (N, T, H, W, 3) in [0, 1]; frames past `emit` are lookahead.
            state: None at the start of a sequence.
            emit: 1 ≤ emit ≤ T; a multiple of the clip size unless the sequence ends there.
            mirrored: as in `construct`; needs `state` None.

        Returns:
            (N, emit, 4H, 4W, 3), not clamped; the state after frame `emit`.
        """
        size = self.config.clip_size
        clips = self._clips(frames)
        emitted = -(-emit // size)
        mirrored = mirrored and state is None and frames.shape[1] % size == 0
        flows = self._flows(clips, state, mirrored) if self.config.flow else None

        fused: list[Tensor | None] = [None] * len(clips)
        if self.config.fused_neighbors:
            fused = self._fused(clips, state)
        shallow = [self.extract(clip, found) for clip, found in zip(clips, fused, strict=True)]
        features: dict[str, Clips] = {"shallow": shallow}
        fields: tuple[dict, dict] = {}, {}  # of the backward and the forward direction
        for index, branch in enumerate(self.config.branches):
            # nothing reads what the last branch would make of the lookahead
            count = emitted if index == self.config.passes - 1 and branch.startswith("forward") else len(clips)
            features[branch] = self.propagate(index, features, flows, fields[index % 2], state, count)

        outputs = [
            self.reconstruct(clips[c], fused[c], *[branch[c] for branch in features.values()]) for c in range(emitted)
        ]
        output = outputs[0] if emitted == 1 else msops.concat(outputs, 1)
        history = self._history(clips[:emitted], state)
        last = RecurrentState(history, {branch: features[branch][emitted - 1] for branch in self.config.branches})
        return output[:, :emit], last

    def propagate(
        self, index: int, features: dict[str, Clips], flows: Flows | None, fields: dict[int, Tensor],
        state: RecurrentState | None, count: int,
    ) -> Clips:  # fmt: skip
        """Run one branch over the clips (section 4.2); a backward branch sees time reversed on entry and exit.

        Args:
            index: of the branch in BRANCHES.
            features: what came before, by branch; the last entry is this branch's own input.
            flows: between adjacent frames; None without optical flow.
            fields: the corrected flows to each clip of this direction: the first pass adds them, the second one reads them.
            state: continues a forward branch; a backward branch starts without one.
            count: clips to run.

        Returns:
            the branch's features of the first `count` clips, in time order.
        """
        branch = self.config.branches[index]
        backward = branch.startswith("backward")
        sources = [[ops.reverse_time(clip) for clip in clips] if backward else clips for clips in features.values()]
        key = propagated = None
        if state is not None and not backward:
            key, propagated = state.features[list(features)[-1]], state.features[branch]
        outputs = []
        for c in range(count - 1, -1, -1) if backward else range(count):
            query = sources[-1][c]
            if propagated is None:
                aligned = msops.zeros_like(query)
            else:
                if flows is not None and c not in fields:
                    field = self._field(flows, c, backward)
                    aligned, fields[c] = self.align[index](query, key, propagated, field)
                else:
                    aligned, _ = self.align[index](query, key, propagated, fields.get(c))
            propagated = self.branches[index](aligned, *[clips[c] for clips in sources])
            outputs.append(propagated)
            key = query
        return [ops.reverse_time(clip) for clip in reversed(outputs)] if backward else outputs

    def _field(self, flows: Flows, c: int, backward: bool) -> Tensor:
        """(N, T, T, H, W, 2) px: where the offsets from clip c to the previous one start."""
        return compose_flows(flows.backward_to(c) if backward else flows.forward_to(c), self.config.clip_size)

    def _clips(self, frames: Tensor) -> Clips:
        """(N, T, H, W, 3) → clips; the last frame is repeated to fill the last clip."""
        size = self.config.clip_size
        missing = -frames.shape[1] % size
        if missing:
            frames = msops.concat((frames, *[frames[:, -1:]] * missing), 1)
        return [frames[:, t : t + size] for t in range(0, frames.shape[1], size)]

    def _history(self, clips: Clips, state: RecurrentState | None) -> Tensor:
        """The last `history` frames, `ABSENT` where the sequence is not as long."""
        length = self.config.history
        past = msops.full_like(clips[0][:, :1], ABSENT).tile((1, length, 1, 1, 1)) if state is None else state.frames
        frames = msops.concat((past, *clips), 1)
        return frames[:, frames.shape[1] - length :]

    def _fused(self, clips: Clips, state: RecurrentState | None) -> Clips:
        """The fusion of each clip with its neighboring frames."""
        reach, size = self.config.fused_neighbors, self.config.clip_size
        absent = [msops.full_like(clips[0][:, :1], ABSENT)] * reach
        past = absent if state is None else [state.frames[:, -reach:]]
        video = msops.concat((*past, *clips, *absent), 1)
        starts = range(0, len(clips) * size, size)
        return [fuse_neighbors(video[:, start : start + size + 2 * reach], reach) for start in starts]

    def _flows(self, clips: Clips, state: RecurrentState | None, mirrored: bool) -> Flows:
        """Optical flow along the clips, with the state's clip in front."""
        before = clips[0][:, :1] if state is None else state.frames[:, -1:]
        forward, backward = [], []
        for clip in clips:
            pair = estimate_flow(msops.concat((before, clip), 1), not mirrored, *ops.arguments(self.spynet))
            forward.append(pair[0])
            backward.append(pair[1])
            before = clip[:, -1:]
        if mirrored:  # the flow from p to p-1 is that from L-p-1 to L-p
            steps = [clip[:, t : t + 1] for clip in backward for t in range(clip.shape[1])]
            turned = [steps[-p] for p in range(len(steps))]
            size = self.config.clip_size
            forward = [msops.concat(turned[t : t + size], 1) for t in range(0, len(turned), size)]
        if state is None:
            return Flows(forward, backward, None)
        clip = state.frames[:, -self.config.clip_size :]
        past = estimate_flow(msops.concat((clip[:, :1], clip), 1), True, *ops.arguments(self.spynet))
        return Flows(forward, backward, past[0])
