# SPDX-License-Identifier: Apache-2.0
"""Networks small enough to compile in seconds, which together have all that the published structure has."""

from __future__ import annotations

from dataclasses import replace

from rvrt_cli.model import RVRTConfig

# Flow, bias, shifted windows; neighborhood attention; no flow; frame fusion and a lead-in
GUIDED = RVRTConfig(
    widths=(12, 12, 12),
    groups=(1, 1, 1),
    depths=(1, 2, 1),
    heads=(2, 2, 2),
    window=4,
    align_heads=4,
    deformable_groups=4,
    upsampler_width=8,
)
PLAIN = replace(GUIDED, alignment="neighborhood", relative_position_bias=False)
BARE = replace(GUIDED, passes=2, bodies=("convolution",) * 3, flow_guided=False, offset_width=8, upsampler_width=0)
KANADE = replace(BARE, flow_guided=True, flow_estimator="lucas-kanade", fused_neighbors=3, lead_in=1)
