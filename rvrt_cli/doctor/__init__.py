# SPDX-License-Identifier: Apache-2.0
"""A look at one's machine.

cache_contents.py  what is in the cache folder, and removing what can be made again
machine_report.py  devices, kernels, ffmpeg, memory, versions; what would make it faster: `examine`
"""
