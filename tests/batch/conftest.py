"""Jobs over the scripted engine: a folder with rows, and what runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batch_kill
import pytest

from edgeinfer import batch
from edgeinfer.llm import LLM


class Folder:
    """A folder with ``in.jsonl``; results go to ``out.jsonl``."""

    def __init__(self, path: Path, llm: LLM) -> None:
        self.path = path
        self.llm = llm
        self.source = path / "in.jsonl"
        self.out = path / "out.jsonl"
        self.said: list[str] = []

    def write(self, *rows: Any) -> Path:
        """One line a row; bytes as they are."""
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        self.source.write_bytes(b"".join(line + b"\n" for line in lines))
        return self.source

    def run(self, rows: Any = None, **options: Any) -> batch.Report:
        options = {"temperature": 0.0, "max_tokens": 6, "said": self.said.append, **options}
        return batch.run(self.source if rows is None else rows, self.llm, self.out, **options)

    def lines(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        path = self.path / name
        return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    @property
    def errors(self) -> list[str]:
        return [line["error"]["message"] for line in self.lines("out.errors.jsonl")]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Folder]:
    with batch_kill.scripted_llm() as llm:
        yield Folder(tmp_path, llm)
