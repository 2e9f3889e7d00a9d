# SPDX-License-Identifier: Apache-2.0
"""Writing a target: checked first, then encoded in segments, assembled and published.

target.py            what is asked for (OutputRequest) and what is decided (Target)
target_check.py      `check_target`: from one to the other
image_targets.py     the same for a folder of images, an image and a GIF
destination.py       whether the output can be written at its path
encoder_settings.py  encoder, pixel format, HDR options, and those of the user
encoder_quality.py   one scale of quality for all encoders; lossless encoding
fidelity_notes.py    notes on what the target cannot keep
preflight.py         tries the encoder and the container on black frames
encoder.py           one ffmpeg process that encodes frames
writers.py           SegmentWriter (files in a folder) and Y4mWriter (standard output)
gif.py               a GIF from a losslessly encoded video
publish.py           checks and assembles the segments, and gives the result its name
"""
