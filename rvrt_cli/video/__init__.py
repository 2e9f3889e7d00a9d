# SPDX-License-Identifier: Apache-2.0
"""Video files, image sequences and y4m streams: from frames in a container to frames in another one.

A frame passes the rooms in this order:

    read/     `probe` describes the source, `open_reader` decodes it into `rvrt_cli.frame.Frame` objects
    write/    `check_target` decides on the output before any work; `SegmentWriter` or `Y4mWriter` encodes the frames
    mux/      encoded segments and the source's audio, subtitles, chapters and metadata become one file
    write/    `publish` gives that file its name

Pixels pass through ffmpeg processes (ffmpeg.py), containers through PyAV. color.py holds color descriptions and the
conversions to and from RGB. Imports point from write to mux to read to color and ffmpeg.
"""
