"""Where rows come from: JSON lines, CSV, Parquet, or objects of a program. One row after the other, never all at once.

A source is read twice: once to count it and to take its hash, which is what tells that a job that goes on is the same
job; then row by row. It knows nothing of what rows mean."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import IO, Any, Protocol

from edgeinfer.batch.rows import Raw, row_key
from edgeinfer.errors import BackendUnavailable, FormatError, UsageError

__all__ = ["MAX_ROW_BYTES", "Source", "open_source"]

MAX_ROW_BYTES = 16 << 20
"""A longer line is no row; it is passed over without being held in memory."""
_BLOCK_BYTES = 1 << 20


class Source(Protocol):
    """Rows in their order, the same ones each time."""

    @property
    def n_rows(self) -> int | None:
        """None where only reading them all would tell."""
        ...

    @property
    def columns(self) -> Sequence[str] | None:
        """The names that every row has; None where each row says for itself what it has."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the manifest keeps, to know the input again."""
        ...

    def rows(self) -> Iterator[Raw]: ...


def open_source(rows: str | Path | Iterable[Any]) -> Source:
    """A file by its ending (``.csv``, ``.tsv``, ``.parquet``, anything else: JSON lines), or objects of a program.
    Raises `UsageError` for a file that cannot be read."""
    if not isinstance(rows, (str, Path)):
        return _Objects(rows)
    path = Path(rows)
    kinds: dict[str, Callable[[Path], Source]] = {".csv": _Csv, ".tsv": _Csv, ".parquet": _Parquet, ".pq": _Parquet}
    try:
        return kinds.get(path.suffix.lower(), _JsonLines)(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def _whole(path: Path) -> tuple[int, str]:
    """(bytes, SHA-256) of a file."""
    digest, n_bytes = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            n_bytes += len(block)
    return n_bytes, digest.hexdigest()


class _JsonLines:
    """One row a line; blank lines are none."""

    columns = None

    def __init__(self, path: Path) -> None:
        self._path = path
        digest, self._n_bytes, self.n_rows = hashlib.sha256(), 0, 0
        with path.open("rb") as stream:
            for _, line, _ in _lines(stream, digest):
                self.n_rows += bool(line.strip())
            self._n_bytes = stream.tell()
        self._sha256 = digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        return {"kind": "jsonl", "bytes": self._n_bytes, "sha256": self._sha256, "rows": self.n_rows}

    def rows(self) -> Iterator[Raw]:
        index = 0
        with self._path.open("rb") as stream:
            for number, line, n_bytes in _lines(stream):
                record = line.strip()
                if not record:
                    continue
                problem = None
                if n_bytes > MAX_ROW_BYTES:
                    problem = f"the line has {n_bytes} bytes, more than the {MAX_ROW_BYTES} that a row may have"
                yield Raw(index, number, row_key(record), b"" if problem else record, problem)
                index += 1


def _lines(stream: IO[bytes], digest: Any = None) -> Iterator[tuple[int, bytes, int]]:
    """(number, beginning of the line, bytes of the whole line)"""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):  # some editors begin a file so
            if digest is not None:
                digest.update(line[:3])
            line = line[3:]
        if digest is not None:
            digest.update(line)
        n_bytes, rest = len(line), line
        while not rest.endswith(b"\n") and (rest := stream.readline(_BLOCK_BYTES)):
            n_bytes += len(rest)
            if digest is not None:
                digest.update(rest)
        yield number, line, n_bytes


class _Csv:
    """The first line names the columns. Tabs separate them where the file's name ends in ``.tsv``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._comma = "\t" if path.suffix.lower() == ".tsv" else ","
        self._n_bytes, self._sha256 = _whole(path)
        csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
        with self._opened() as stream:
            self.columns: Sequence[str] = _heading(path, csv.reader(stream, delimiter=self._comma, strict=True))
        self.n_rows = sum(1 for _ in self._records())

    def facts(self) -> dict[str, Any]:
        return {"kind": "csv", "bytes": self._n_bytes, "sha256": self._sha256, "rows": self.n_rows}

    def _opened(self) -> IO[str]:
        # What is no UTF-8 comes as half surrogates, so that it is the trouble of its row alone.
        return self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _records(self) -> Iterator[tuple[int, list[str], str | None]]:
        """(line where it begins, its fields, what is wrong), without the heading and blank lines."""
        with self._opened() as stream:
            reader = csv.reader(stream, delimiter=self._comma, strict=True)
            next(reader, None)
            while True:
                line = reader.line_num + 1
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield line, [], f"not CSV: {error}"
                    continue
                if fields:
                    yield line, fields, None

    def rows(self) -> Iterator[Raw]:
        for index, (line, fields, problem) in enumerate(self._records()):
            if problem is None and len(fields) != len(self.columns):
                problem = f"{len(fields)} fields, where the heading has {len(self.columns)} columns"
            if problem is None and any("\udc80" <= mark <= "\udcff" for field in fields for mark in field):
                problem = "not UTF-8"
            key = row_key(json.dumps(fields).encode() if problem is None or fields else problem.encode())
            yield Raw(index, line, key, {} if problem else dict(zip(self.columns, fields, strict=True)), problem)


def _heading(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next(reader, [])
    except csv.Error as error:
        raise UsageError(f"{path} has no heading that can be read: {error}") from error
    if not names or len(set(names)) != len(names):
        raise UsageError(f"the first line of {path} must name its columns, each name once; it is {names!r:.200}")
    return names


class _Parquet:
    """Row groups are read in batches. Needs pyarrow."""

    _N_AT_ONCE = 64

    def __init__(self, path: Path) -> None:
        self._path = path
        self._n_bytes, self._sha256 = _whole(path)
        with self._opened() as file:
            self.n_rows: int = file.metadata.num_rows
            self.columns: Sequence[str] = list(file.schema_arrow.names)

    def facts(self) -> dict[str, Any]:
        return {"kind": "parquet", "bytes": self._n_bytes, "sha256": self._sha256, "rows": self.n_rows}

    def _opened(self) -> Any:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise BackendUnavailable(
                f"Parquet files need pyarrow: pip install 'edgeinfer[parquet]' ({error})"
            ) from error
        try:
            return parquet.ParquetFile(self._path, memory_map=True, pre_buffer=False)
        except (ArrowException, ValueError) as error:
            raise FormatError(f"{self._path} is no Parquet file that can be read: {error}") from error

    def rows(self) -> Iterator[Raw]:
        index = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=self._N_AT_ONCE):
                for record in batch.to_pylist():
                    key = row_key(_canonical(record))
                    yield Raw(index, index + 1, key, record)
                    index += 1


class _Objects:
    """Rows of a program: mappings, or texts, which are prompts."""

    columns = None

    def __init__(self, rows: Iterable[Any]) -> None:
        self._rows = rows
        self.n_rows = len(rows) if isinstance(rows, Sized) else None

    def facts(self) -> dict[str, Any]:
        return {"kind": "objects"}

    def rows(self) -> Iterator[Raw]:
        for index, given in enumerate(self._rows):
            record = {"prompt": given} if isinstance(given, str) else given
            if isinstance(record, Mapping):
                yield Raw(index, index + 1, row_key(_canonical(record)), record)
            else:
                problem = f"a row is a mapping or a text, not {type(given).__name__}"
                yield Raw(index, index + 1, row_key(problem.encode()), {}, problem)


def _canonical(record: Mapping[str, Any]) -> bytes:
    """The same bytes for the same record, whatever the order of its fields."""
    return json.dumps(record, sort_keys=True, default=str).encode()
