# SPDX-License-Identifier: Apache-2.0
"""The kernel of cubic interpolation (Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981). NumPy only."""

from __future__ import annotations

import numpy as np

MATLAB_SLOPE = -0.5  # also that of Keys' equation 15


def keys_kernel(distance: np.ndarray, slope: float) -> np.ndarray:
    """Weights of pixels at a distance [px], of either sign; 0 from 2 px on. The same shape and floating-point type.

    Args:
        slope: of the kernel at 1 px: `MATLAB_SLOPE`, or -0.75 in PyTorch and ONNX.
    """
    x = np.abs(distance)
    near = (slope + 2) * x**3 - (slope + 3) * x**2 + 1
    far = slope * x**3 - 5 * slope * x**2 + 8 * slope * x - 4 * slope
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
