"""The dtypes a recording can hold, each as unsigned bit patterns: codecs never see a float as a number unless they say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightlapse.errors import InvalidArgument


@dataclass(frozen=True)
class Pattern:
    """How one dtype is kept: its code in files, bits per value and, for floats, the layout of the bits."""

    name: str
    code: int
    bits: int
    mantissa: int = 0  # stored mantissa bits; 0 for integers

    @property
    def nbytes(self) -> int:
        """Bytes of a value."""
        return self.bits // 8

    @property
    def unsigned(self) -> np.dtype[np.unsignedinteger]:
        """The dtype of its patterns: unsigned, little-endian."""
        return np.dtype(f"<u{self.nbytes}")

    @property
    def signed(self) -> np.dtype[np.signedinteger]:
        """The signed dtype of as many bits, in which differences of patterns are read."""
        return np.dtype(f"<i{self.nbytes}")

    @property
    def is_float(self) -> bool:
        """Whether values are floats, which alone have a grid."""
        return self.mantissa > 0

    def numbers(self, bits: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
        """The float64 values of these patterns (exact for every dtype but 64-bit integers)."""
        if self.name == "bfloat16":
            return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        if self.name.startswith("complex"):
            raise InvalidArgument(f"{self.name} has no order; view it as pairs of floats")
        dtype = np.dtype(self.name) if self.name != "bool" else np.dtype(np.uint8)
        return bits.view(dtype).astype(np.float64)

    def of_numbers(self, values: NDArray[np.float64]) -> NDArray[np.unsignedinteger]:
        """The patterns of float64 ``values`` rounded to this float dtype (nearest, ties to even)."""
        if self.name == "bfloat16":
            # two roundings (to float32, then to 16 bits) may differ from one in the last place: callers check the result
            wide = values.astype(np.float32).view(np.uint32)
            return ((wide + np.uint32(0x7FFF) + ((wide >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
                np.uint16
            )
        return values.astype(self.name).view(self.unsigned)


PATTERNS: dict[str, Pattern] = {
    p.name: p
    for p in (
        Pattern("float32", 1, 32, 23),
        Pattern("float64", 2, 64, 52),
        Pattern("float16", 3, 16, 10),
        Pattern("bfloat16", 4, 16, 7),
        Pattern("int8", 5, 8),
        Pattern("int16", 6, 16),
        Pattern("int32", 7, 32),
        Pattern("int64", 8, 64),
        Pattern("uint8", 9, 8),
        Pattern("uint16", 10, 16),
        Pattern("uint32", 11, 32),
        Pattern("uint64", 12, 64),
        Pattern("bool", 13, 8),
    )
}
BY_CODE = {p.code: p for p in PATTERNS.values()}
