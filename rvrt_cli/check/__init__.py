# SPDX-License-Identifier: Apache-2.0
"""`rvrt check`: compare a source with what some tool has made of it, and name what went wrong.

verdict.py          findings, and the report that they make up
check_options.py    what of the source the target shows
paired_frames.py    small copies of both videos' frames, paired by their timestamps, in one pass
frame_findings.py   number of frames, timestamps, repeated, black and misplaced frames, sudden changes
color_findings.py   mean color shift, and the matrix or range that explains it
container_findings.py  size, aspect, rotation, bit depth as stated, color tags, HDR metadata, chapters
packet_findings.py  each other stream's packets: copied, re-encoded or missing
audio_offset.py     audio against video at start and end, by timestamps and by the sound itself
seam_findings.py    steps at tile borders and at window joins, in excerpts at full size
depth_findings.py   whether frames of more than 8 bits hold more than 8 bits
run_check.py        all of it: `check_target_against_source`
"""
