# SPDX-License-Identifier: Apache-2.0
"""Training data: how it is prepared, degraded and loaded, and what networks are validated on.

Preparation, `rvrt preprocess`:
    sources → (camera_motion) → make_clips → clip_store       clips from any photos and videos
    vimeo → resize → vimeo_preprocess                         the low resolution of Vimeo-90K

The path of a training sample:
    clip_store or vimeo → batches (random clip, crop, flips; batch_spec) → degradation → batch_loader (worker processes)

`degradation` draws from mixes of `capture_artifacts` (noise, sharpening, interlacing) and `codecs` (H.264, H.265, …).
`resize` holds the degradations of the literature (BI, BD), `validation` the protocol that scores a network on videos.
NumPy only: MindSpore is never imported here.
"""
