"""Files that grow piece by piece and appear whole or not at all, packed where their name says so."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from isa.files import whole_file

BLOCK_BYTES = 1 << 24  # of a file at a time: what an export holds in memory beside its trace


@contextmanager
def packed_file(path: Path) -> Iterator[BinaryIO]:
    """isa.files.whole_file; a name that ends in .gz is packed on the way, without a date, so that the same content
    gives the same bytes. Raises OSError."""
    with whole_file(path) as file:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file
