"""Floats of eight bits and fewer, which NumPy does not have: each is kept as a byte with the pattern of its bits, and read as float32.

All of them have so few patterns that a table holds every value; float32 holds each exactly. The formats are those of the OCP
specifications for 8-bit floats (e4m3fn, e5m2) and for microscaling (e8m0fnu, e2m3fn, e3m2fn, e2m1fn), their variants without negative zero
("fnuz", Noune et al. 2022), and the IEEE-like e3m4 and e4m3.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# name -> exponent bits, mantissa bits, bias, what is special:
#   "ieee"  exponents of all ones are infinities and NaN
#   "fn"    finite; the patterns of all ones are NaN where there are eight bits, and numbers where there are fewer
#   "fnuz"  finite, no negative zero: its pattern is the one NaN
#   "fnu"   finite, unsigned, powers of two; the pattern of all ones is NaN
FORMATS = {
    "float8_e3m4": (3, 4, 3, "ieee"),
    "float8_e4m3": (4, 3, 7, "ieee"),
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, "fn"),
    "float8_e4m3fnuz": (4, 3, 8, "fnuz"),
    "float8_e4m3b11fnuz": (4, 3, 11, "fnuz"),
    "float8_e5m2fnuz": (5, 2, 16, "fnuz"),
    "float8_e8m0fnu": (8, 0, 127, "fnu"),
    "float6_e2m3fn": (2, 3, 1, "fn"),
    "float6_e3m2fn": (3, 2, 3, "fn"),
    "float4_e2m1fn": (2, 1, 1, "fn"),
}


@cache
def values_of(name: str) -> NDArray[np.float32]:
    """The float32 value of each of the 256 bytes; above the bits of a format a byte has no meaning, and they are ignored.

    >>> values_of("float4_e2m1fn")[:16].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
    """
    exponent_bits, mantissa_bits, bias, special = FORMATS[name]
    byte = np.arange(256)
    if special == "fnu":
        values = np.ldexp(1.0, byte - bias)
        values[-1] = np.nan
        return values.astype(np.float32)
    mantissa = byte & ((1 << mantissa_bits) - 1)
    exponent = (byte >> mantissa_bits) & ((1 << exponent_bits) - 1)
    normal = exponent > 0
    size = np.ldexp(mantissa + (normal << mantissa_bits), np.where(normal, exponent, 1) - bias - mantissa_bits)
    negative = (byte >> (exponent_bits + mantissa_bits)) & 1 == 1
    if special == "ieee":
        size = np.where(exponent == exponent.max(), np.where(mantissa == 0, np.inf, np.nan), size)
    elif special == "fnuz":
        size[negative & (exponent == 0) & (mantissa == 0)] = np.nan
    elif exponent_bits + mantissa_bits == 7:
        size[(exponent == exponent.max()) & (mantissa == mantissa.max())] = np.nan
    return np.copysign(size, np.where(negative, -1.0, 1.0)).astype(np.float32)
