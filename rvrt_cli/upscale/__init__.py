# SPDX-License-Identifier: Apache-2.0
"""A video through the network: what is going to happen (`prepare`), and doing it (`run`).

- `job` checks source, target, weights and memory, and plans windows and tiles.
- `resume` finds out whether an earlier run left something that this one can resume; `workdir` is the folder beside the
  target where finished segments are kept until the target is complete.
- `exported` finds, or makes, the model of `--runtime onnx`.
- `compute` is the way of a frame: reader, engine, network, writer, segment by segment; `progress` says how far it is.
- `run` computes what is missing, assembles the target and publishes it.
- `distribute` distributes the scenes of one video among several ranks; `upscale_rank` is one of them.
"""

from rvrt_cli.upscale.job import Job, load_network, prepare
from rvrt_cli.upscale.progress import Progress
from rvrt_cli.upscale.run import run, upscale_video

__all__ = ["Job", "Progress", "load_network", "prepare", "run", "upscale_video"]
