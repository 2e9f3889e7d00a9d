# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the network's weights, part by part, in the order in which the stages unpack them. No MindSpore import.

C channels; names are the published ones.
"""

from __future__ import annotations

import itertools

from rvrt_cli.model.config import UPSAMPLING, RVRTConfig

Shapes = list[tuple[str, tuple[int, ...]]]  # name and shape of each weight
RefineSizes = tuple[int, int, int, tuple[int, int, int], bool]  # groups, layers per group, heads, window, biased
Body = RefineSizes | None  # of a part: Swin layers, or None for convolutions

EXTRACTION, BRANCH, RECONSTRUCTION = range(3)  # the parts of `RVRTConfig`
SPYNET_LEVELS = 6
SPYNET_STEP = 2 ** (SPYNET_LEVELS - 1)  # px: SpyNet resizes its frames to a multiple
_SPYNET_WIDTHS = (
    8,
    32,
    64,
    32,
    16,
    2,
)  # channels of a level's convolutions: 2 frames RGB and the flow → the flow's residue


def parameter_shapes(config: RVRTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by its published name."""
    parts = [spynet_shapes() if config.spynet else [], *extraction_shapes(config)]
    parts += [alignment_shapes(branch, config) for branch in config.branches]
    for sources, branch in enumerate(config.branches, 1):
        parts += branch_shapes(branch, sources, config)
    parts += reconstruction_shapes(config)
    return {name: shape for part in parts for name, shape in part}


# --- layers


def linear_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    """Dense layer: weight, bias."""
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def norm_shapes(name: str, channels: int) -> Shapes:
    """LayerNorm: weight, bias."""
    return [(f"{name}.weight", (channels,)), (f"{name}.bias", (channels,))]


def conv_shapes(name: str, inputs: int, outputs: int, kernel: int, rank: int = 5) -> Shapes:
    """Convolution: weight, bias; `inputs` are those of one group. Rank 5 is a published Conv3d of temporal extent 1."""
    frames = (1,) if rank == 5 else ()
    return [(f"{name}.weight", (outputs, inputs, *frames, kernel, kernel)), (f"{name}.bias", (outputs,))]


def mlp_shapes(name: str, channels: int, ratio: int) -> Shapes:
    """Two dense layers: the last four arguments of `ops.mlp`."""
    hidden = channels * ratio
    return [*linear_shapes(f"{name}.fc1", channels, hidden), *linear_shapes(f"{name}.fc2", hidden, channels)]


def transformer_shapes(name: str, channels: int, heads: int, window: tuple, ratio: int, biased: bool) -> Shapes:
    """Swin layer: 12 weights, and the table of relative position biases if it has one."""
    rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
    table = [(f"{name}.attn.relative_position_bias_table", (rows, heads))] if biased else []
    return [
        *norm_shapes(f"{name}.norm1", channels),
        *linear_shapes(f"{name}.attn.qkv_self", channels, 3 * channels),
        *linear_shapes(f"{name}.attn.proj", channels, channels),
        *norm_shapes(f"{name}.norm2", channels),
        *mlp_shapes(f"{name}.mlp", channels, ratio),
        *table,
    ]


# --- the body of a part: Swin layers, or convolutions


def body_of(config: RVRTConfig, part: int) -> Body:
    """What `run_body` takes for a part."""
    if config.bodies[part] == "convolution":
        return None
    window = (config.clip_size if part == BRANCH else 1, config.window, config.window)
    return config.groups[part], config.depths[part], config.heads[part], window, config.relative_position_bias


def body_shapes(name: str, config: RVRTConfig, part: int) -> Shapes:
    """Weights of `run_body`."""
    body = body_of(config, part)
    if body is None:
        return convolve_shapes(name, config.widths[part], config.groups[part] * config.depths[part])
    return refine_shapes(name, config.widths[part], body, config.mlp_ratio)


def refine_shapes(name: str, channels: int, sizes: RefineSizes, ratio: int) -> Shapes:
    """LayerNorm; per group its layers and a dense layer; LayerNorm."""
    groups, depth, heads, window, biased = sizes
    shapes = norm_shapes(f"{name}.main.3", channels)
    for i in range(groups):
        group = f"{name}.main.5.{i}"
        for j in range(depth):
            layer = f"{group}.residual_group.blocks.{j}"
            shapes += transformer_shapes(layer, channels, heads, window, ratio, biased)
        shapes += linear_shapes(f"{group}.linear", channels, channels)
    return shapes + norm_shapes(f"{name}.main.7", channels)


def convolve_shapes(name: str, channels: int, blocks: int) -> Shapes:
    """Two convolutions per block."""
    convs = [f"{name}.main.5.{i}.{conv}" for i in range(blocks) for conv in ("conv1", "conv2")]
    return [shape for conv in convs for shape in conv_shapes(conv, channels, channels, 3)]


# --- the parts of the network


def spynet_shapes(name: str = "spynet") -> Shapes:
    """Five 7x7 convolutions per level."""
    convs = [
        conv_shapes(f"{name}.basic_module.{level}.basic_module.{2 * i}", inputs, outputs, 7, rank=4)
        for level in range(SPYNET_LEVELS)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(_SPYNET_WIDTHS))
    ]
    return [shape for conv in convs for shape in conv]


def extraction_shapes(config: RVRTConfig) -> tuple[Shapes, Shapes, Shapes, Shapes]:
    """Of `Extract`: the convolutions that reduce the frames, its convolution, that of the fused neighbors, its body."""
    name, width, channels = "feat_extract", config.widths[EXTRACTION], config.input_channels
    reducing: Shapes = []
    if config.reduction > 1:  # twice by 2
        reducing = [*conv_shapes(f"{name}.1", channels, width, 3), *conv_shapes(f"{name}.3", width, width, 3)]
        name, channels = f"{name}.6", width
    fused = conv_shapes(f"{name}.fused", config.fused_channels, width, 3) if config.fused_neighbors else []
    conv = conv_shapes(f"{name}.main.1", channels // config.conv_groups[EXTRACTION], width, 3)
    return reducing, conv, fused, body_shapes(name, config, EXTRACTION)


def alignment_shapes(branch: str, config: RVRTConfig) -> Shapes:
    """Of `Align` in one branch."""
    name = f"deform_align.{branch}"
    return attend_shapes(name, config) if config.alignment == "neighborhood" else deformable_shapes(name, config)


def attend_shapes(name: str, config: RVRTConfig) -> Shapes:
    """Common to both alignments: projections to query, key and value; projection and MLP after the attention."""
    width, align_width = config.width, config.align_width
    return [
        *linear_shapes(f"{name}.proj_q.1", width, align_width),
        *linear_shapes(f"{name}.proj_k.1", width, align_width),
        *linear_shapes(f"{name}.proj_v.1", width, align_width),
        *linear_shapes(f"{name}.proj.1", align_width, width),
        *mlp_shapes(f"{name}.mlp.1", width, config.mlp_ratio),
    ]


def deformable_shapes(name: str, config: RVRTConfig) -> Shapes:
    """Six convolutions that predict the offsets, then `attend_shapes`."""
    offsets = 2 * config.clip_size * config.deformable_groups * config.align_kernel**2
    inputs, hidden = config.width * (1 + config.clip_size), config.offset_width
    if config.flow:
        inputs += 2 * config.clip_size
    sizes = [(inputs, hidden, 1), *[(hidden, hidden, 3)] * 4, (hidden, offsets, 1)]
    convs = [conv_shapes(f"{name}.conv_offset.{2 * i}", *size) for i, size in enumerate(sizes)]
    return [*[shape for conv in convs for shape in conv], *attend_shapes(name, config)]


def branch_shapes(branch: str, sources: int, config: RVRTConfig) -> tuple[Shapes, Shapes]:
    """Of `Branch`, which reads the features of `sources` earlier parts: its convolution, its body."""
    name, width = f"backbone.{branch}", config.widths[BRANCH]
    inputs = (sources + 1) * width // config.conv_groups[sources]
    return conv_shapes(f"{name}.main.1", inputs, width, 3), body_shapes(name, config, BRANCH)


def reconstruction_shapes(config: RVRTConfig) -> tuple[Shapes, Shapes, Shapes, Shapes]:
    """Of `Reconstruct`: its convolution, its body, the upsampler or last convolution, the path of the fused neighbors."""
    name, width = "reconstruction", config.widths[RECONSTRUCTION]
    subpixels = 3 * UPSAMPLING**2  # RGB of all output pixels of a pixel of the features
    conv = conv_shapes(f"{name}.main.1", (1 + config.passes) * config.width // config.conv_groups[-1], width, 3)
    linear_path = config.fused_neighbors and not config.upsampler_width
    fused = conv_shapes("conv_last.fused", subpixels, subpixels, 3) if linear_path else []
    if config.upsampler_width:
        head = _upsampler_shapes(width, config.upsampler_width)
    else:
        head = conv_shapes("conv_last", width, subpixels, 3)
    return conv, body_shapes(name, config, RECONSTRUCTION), head, fused


def _upsampler_shapes(width: int, hidden: int) -> Shapes:
    """Weights of `upsample`: a 1x1 convolution, two pixel shuffles by 2, two convolutions at full size."""
    return [
        *conv_shapes("conv_before_upsampler.0", width, hidden, 1),
        *conv_shapes("upsampler.0", hidden, 4 * hidden, 3),
        *conv_shapes("upsampler.5", hidden, 4 * hidden, 3),
        *conv_shapes("upsampler.10", hidden, hidden, 3),
        *conv_shapes("conv_last", hidden, 3, 3),
    ]
