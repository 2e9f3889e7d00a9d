# SPDX-License-Identifier: Apache-2.0
"""The output container: encoded video, and the source's other streams, chapters and metadata.

route.py           how one stream of the source reaches the output
stream_plan.py     chooses the routes before any work
audio_codecs.py    codecs and channel layouts for audio that a container cannot hold as it is
languages.py       language codes that a container can store
transcode.py       audio and subtitles that pass through ffmpeg
excerpt.py         the part of the source that the output shows
remux.py           packets that are copied
video_packets.py   packets of the encoded segments, as one stream
metadata.py        tags, dispositions and chapters
final_mux.py       puts them together: `mux`
"""
