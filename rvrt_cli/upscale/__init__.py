"""A video through the network: what is going to happen (`prepare`), and doing it (`run`).

- `job` checks source, target, weights and memory, and finds out whether an earlier run left something to go on with.
- `work` is the folder beside the target where a run keeps what is done until the target is complete.
- `run` does the work: reading, windows and tiles, network, writing, each overlapping the others.
- `ranks` has several processes share out the scenes of one video; `worker` is one of them.
"""

from rvrt_cli.upscale.job import MEMORY_SHARE, Job, load_network, prepare
from rvrt_cli.upscale.run import Progress, run, upscale_video

__all__ = ["MEMORY_SHARE", "Job", "Progress", "load_network", "prepare", "run", "upscale_video"]
