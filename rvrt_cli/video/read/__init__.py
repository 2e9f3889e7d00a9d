# SPDX-License-Identifier: Apache-2.0
"""Reading a source: `probe` describes it, `open_reader` yields its frames.

source.py          what is known of a source: SourceInfo, StreamInfo
container.py       opening containers with PyAV, demuxing
probe.py           fills SourceInfo for videos, image sequences and y4m on standard input
side_data.py       orientation, color and HDR metadata of a decoded frame
hdr10_plus.py       HDR10+ metadata in packets of HEVC and AV1
y4m_header.py      the header of a y4m stream
video_files.py     the videos of a folder
image_files.py     the files of an image sequence and their pixels
decoder.py         frames of a video, from ffmpeg through a pipe
image_decoder.py   frames of an image sequence
telecine.py        inverse telecine: the film in telecined video
reader.py          runs either decoder ahead in a thread, with a bounded queue
"""
