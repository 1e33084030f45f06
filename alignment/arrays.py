"""NumPy arrays by the type of their elements, for annotations."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Bool: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Int8: TypeAlias = np.ndarray[Any, np.dtype[np.int8]]
Int32: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]
Int64: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Float32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
