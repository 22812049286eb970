"""The entropy coder: pcodec, one histogram for many independently readable pages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec
from pcodec.wrapped import FileCompressor, FileDecompressor

from weightlapse.errors import DamagedRecording

# pcodec has no 8-bit default type; bytes travel as 16-bit numbers, whose upper half costs nothing
_TYPES = {"u2": "u16", "u4": "u32", "u8": "u64"}
_COMPRESSOR = FileCompressor()
FILE_HEADER: bytes = _COMPRESSOR.write_header()  # says which version of pcodec's format the pages are in
LEVEL = 8


class PageWriter:
    """Numbers compressed under one shared histogram, page by page. ``values``: 1-D unsigned; ``sizes``: how many in each page."""

    def __init__(self, values: NDArray[np.unsignedinteger], sizes: list[int]) -> None:
        """The sizes add up to the number of values."""
        if values.dtype.itemsize == 1:
            values = values.astype(np.uint16)
        # No delta and no search for a mode: what arrives is noise around a prediction, and looking for more costs a third of the time.
        config = ChunkConfig(
            compression_level=LEVEL,
            delta_spec=DeltaSpec.no_op(),
            mode_spec=ModeSpec.classic(),
            paging_spec=PagingSpec.exact_page_sizes(sizes),
        )
        self._chunk = _COMPRESSOR.chunk_compressor(values, config)
        self.meta: bytes = self._chunk.write_meta()
        self.pages: list[bytes] = [self._chunk.write_page(i) for i in range(len(sizes))]


class PageReader:
    """Decodes pages written under the histogram ``meta`` to unsigned numbers of ``dtype``; ``file_header`` says by which pcodec."""

    def __init__(self, meta: bytes, dtype: np.dtype[Any], file_header: bytes) -> None:
        """``dtype`` is unsigned, of 1 to 8 bytes; :class:`DamagedRecording` when ``meta`` is no histogram, or one with bytes behind it."""
        self.dtype = dtype
        self._wide = np.dtype(np.uint16) if dtype.itemsize == 1 else np.dtype(f"u{dtype.itemsize}")
        try:
            self._chunk, used = _decompressor(file_header).chunk_decompressor(meta, _TYPES[f"u{self._wide.itemsize}"])
        except BaseException as error:
            raise _damaged(error) from error
        if used != len(meta):
            raise DamagedRecording(f"a histogram of {len(meta)} bytes ends after {used}")

    def read(self, page: bytes, count: int) -> NDArray[np.unsignedinteger]:
        """The ``count`` numbers of a page."""
        out = np.empty(count, self._wide)
        self._into(page, out)
        return np.asarray(out, self.dtype)

    def read_into(self, page: bytes, out: NDArray[np.unsignedinteger]) -> None:
        """The numbers of a page into ``out``, which has as many places and lies together."""
        if self._wide == self.dtype:
            self._into(page, out)
        else:
            out[...] = self.read(page, len(out))

    def _into(self, page: bytes, out: NDArray[np.unsignedinteger]) -> None:
        """The numbers of a page into ``out`` (of the type that pcodec knows); refused where it has fewer or cannot be decoded."""
        count = len(out)
        try:
            progress, _ = self._chunk.read_page_into(page, count, out)
        except BaseException as error:
            raise _damaged(error) from error
        if progress.n_processed != count:
            raise DamagedRecording(f"a page of {count} numbers holds {progress.n_processed}")


@lru_cache(maxsize=8)
def _decompressor(file_header: bytes) -> FileDecompressor:
    """Nearly all chunks are of one version of pcodec."""
    return FileDecompressor.new(file_header)[0]


def _damaged(error: BaseException) -> BaseException:
    """Whatever the decoder does with hostile bytes, a Rust panic included, as :class:`DamagedRecording`; an interrupt stays what it is."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return DamagedRecording(f"compressed bytes cannot be decoded: {error}")
    return error
