"""Resampling over patients, and detection metrics with their intervals."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int_]
Bools = NDArray[np.bool_]
