# SPDX-License-Identifier: Apache-2.0
"""NumPy's matrix product, timed in a process of its own, whose environment sets its threads and instruction set.

`python -m rvrt_cli.bench.numpy_product EDGE` prints the rate of an EDGE³ product in float32 [GFLOP/s].
"""

from __future__ import annotations

import math
import statistics
import sys
import time

import numpy as np

PRODUCT_REPEAT, PRODUCT_CHAIN = 5, 4  # measurements, and products chained in each


def numpy_gflops(edge: int) -> float:
    """Rate of NumPy's float32 product of two `edge` × `edge` matrices, median [GFLOP/s]."""
    rng = np.random.default_rng(0)
    matrix = (rng.standard_normal((edge, edge)) / math.sqrt(edge)).astype(np.float32)  # products keep their magnitude
    product, target = matrix.copy(), np.empty_like(matrix)
    seconds = []
    for _ in range(PRODUCT_REPEAT + 1):  # the first one warms up
        start = time.perf_counter()
        for _ in range(PRODUCT_CHAIN):
            np.matmul(matrix, product, out=target)
            product, target = target, product
        seconds.append(time.perf_counter() - start)
    return 2 * edge**3 * PRODUCT_CHAIN / statistics.median(seconds[1:]) / 1e9


if __name__ == "__main__":
    print(numpy_gflops(int(sys.argv[1])))
