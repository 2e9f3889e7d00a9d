# SPDX-License-Identifier: Apache-2.0
"""Compiled stages of the network in a process of their own, for tests of what one process leaves to the next.

    stage_runs.py NAME[,NAME...]

calls the stages of these names in this order, each compiled in its first call, and prints as JSON: "outputs", the SHA-256 of
each stage's output by name, and "parsed", how many functions of the network MindSpore has parsed: none where all graphs
are loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = ("compose", "compose-large", "flow", "fuse")


def start(folder: Path, *names: str, cache: Path | None = None) -> subprocess.Popen:
    """The process, with `folder` as its working directory, its folder for temporary files in it, and by default its cache."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "RVRT_CACHE": str(cache or folder / "cache"), "TMPDIR": str(temporary)}
    command = [sys.executable, __file__, ",".join(names)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen) -> dict[str, Any]:
    """What the process has printed."""
    printed, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    return json.loads(printed)


def call_stage(name: str) -> bytes:
    """The output of a stage for random input."""
    import numpy as np
    from mindspore import Tensor

    from rvrt_cli.model.alignment import compose_flows
    from rvrt_cli.model.optical_flow import estimate_flow, fuse_neighbors

    def random(*shape: int) -> Tensor:
        return Tensor(np.random.default_rng(0).random(shape, np.float32))

    if name == "flow":
        outputs = estimate_flow(random(1, 2, 16, 24, 3), random(1, 2, 16, 24, 3) ** 2, True)
    elif name == "fuse":
        outputs = (fuse_neighbors(random(1, 4, 8, 8, 3), 1),)
    else:
        edge = 24 if name == "compose-large" else 8
        outputs = (compose_flows(random(1, 3, edge, edge, 2), 2),)
    return b"".join(output.asnumpy().tobytes() for output in outputs)


def main() -> None:
    from rvrt_cli.device import use_device

    use_device("cpu")
    from mindspore.graph._parse.parser import Parser

    from rvrt_cli.ops import compiled_at_once

    parse, parsed = Parser.parse, []

    def counted(parser: Parser) -> Any:
        parsed.append(str(getattr(parser.fn, "__module__", "")))
        return parse(parser)

    Parser.parse = counted
    with compiled_at_once():
        outputs = {name: hashlib.sha256(call_stage(name)).hexdigest() for name in sys.argv[1].split(",")}
    ours = [module for module in parsed if module.startswith(("rvrt_cli.model.", "rvrt_cli.ops.kernels."))]
    print(json.dumps({"outputs": outputs, "parsed": len(ours)}))


if __name__ == "__main__":
    main()
