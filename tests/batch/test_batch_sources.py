"""Rows from CSV, Parquet and programs, prompt templates, and rows that are read ahead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.batch.grouping import grouped
from edgeinfer.batch.rows import Row, RowError
from edgeinfer.batch.sources import open_source
from edgeinfer.batch.template import PromptTemplate
from edgeinfer.errors import FormatError, UsageError


def prompts_seen(job: Any) -> list[int]:
    """Tokens of each prompt, by row: how long the text was that the template made."""
    return [row["usage"]["prompt_tokens"] for row in sorted(job.lines(), key=lambda row: row["index"])]


def test_csv(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,text,n\r\na,"two\nlines, ""quoted""",1\r\nb,short\r\n\r\nc,\xff,3\r\nd,1234,4\r\n'
    )
    report = job.run(path, prompt_template="{{{text}}} {n}", raw=True)
    assert (report.n_rows, report.n_done, report.n_failed) == (4, 2, 2)
    assert [row["custom_id"] for row in sorted(job.lines(), key=lambda row: row["index"])] == ["a", "d"]
    assert prompts_seen(job) == [len('{two\nlines, "quoted"} 1'), len("{1234} 4")]
    assert job.errors == ["line 4: 2 fields, where the heading has 3 columns", "line 6: not UTF-8"]


def test_csv_with_a_prompt_column(job: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tother\nhello\tx\n\tx\n")
    report = job.run(path, raw=True)
    assert (report.n_done, job.errors) == (1, ["line 3: the prompt is empty"])
    assert prompts_seen(job) == [5]


@pytest.mark.parametrize(
    ("text", "template", "why"),
    [
        ("a,b\n1,2\n", None, "no column 'prompt' among 'a', 'b'"),
        ("a,b\n1,2\n", "{c}", "uses 'c'; the columns are 'a', 'b'"),
        ("a,a\n1,2\n", "{a}", "each name once"),
        ("", "{a}", "must name its columns"),
        ("a\n1\n", "no column", "uses no column"),
        ("a\n1\n", "{a!r}", "cannot be read"),
        ("a\n1\n", "{a", "cannot be read"),
        ("a\n1\n", "{}", "cannot be read"),
    ],
)
def test_columns_that_make_no_prompt(job: Any, tmp_path: Path, text: str, template: str | None, why: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=why):
        job.run(path, prompt_template=template)
    assert not job.out.exists()


def test_a_template_means_nothing_but_columns() -> None:
    template = PromptTemplate("{a.__class__}{b[0]} {x y}")
    assert template.columns == ("a.__class__", "b[0]", "x y")
    assert template.fill({"a.__class__": "{b}", "b[0]": [1, "ö"], "x y": 2.5}) == '{b}[1, "ö"] 2.5'
    with pytest.raises(RowError, match=r"'b\[0\]', 'x y'"):
        template.fill({"a.__class__": "x", "b[0]": None})


def test_json_lines_with_a_template(job: Any) -> None:
    job.write({"text": "abc", "label": 3, "id": "i"}, {"label": 1})
    report = job.run(prompt_template="{text}", raw=True)
    assert (report.n_done, job.errors) == (1, ["line 2: no value for 'text', which the prompt template uses"])
    assert job.lines()[0]["custom_id"] == "i"


def test_parquet(job: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    texts = [f"text {i}" if i % 100 else None for i in range(300)]
    parquet.write_table(pyarrow.table({"id": range(300), "text": texts}), path, row_group_size=128)
    report = job.run(path, prompt_template="{text}", raw=True, limit=150)
    assert (report.n_rows, report.n_done, report.n_failed) == (150, 148, 2)
    assert job.errors[0] == "line 1: no value for 'text', which the prompt template uses"
    assert {row["custom_id"] for row in job.lines()} == {str(i) for i in range(150) if i % 100}
    chats = tmp_path / "chats.parquet"
    parquet.write_table(pyarrow.table({"messages": [[{"role": "user", "content": "hi"}]]}), chats)
    assert job.run(chats, restart=True).n_done == 1
    (tmp_path / "broken.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(FormatError, match="no Parquet file"):
        job.run(tmp_path / "broken.parquet", restart=True)


def test_objects_of_a_program(job: Any) -> None:
    def rows() -> Iterator[Any]:
        yield "hello"
        yield {"prompt": "hello", "id": "b"}
        yield 3

    report = job.run(rows())
    assert (report.n_rows, report.n_done, job.errors) == (3, 2, ["line 3: a row is a mapping or a text, not int"])
    again = job.run(rows())
    assert (again.n_before, again.n_prompt) == (3, 0)
    with pytest.raises(UsageError, match=r"row 1 \(line 2\) is not the one"):
        job.run(["hello", "another"])
    with pytest.raises(UsageError, match="can be counted"):
        job.run(rows(), sample=1)


def test_a_source_that_cannot_be_read(job: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            job.run(path)


def test_rows_are_counted_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a":1}\n\n  \r\n{"a":2}\r\n' + b" " * 100 + b'{"a":3}')
    source = open_source(path)
    rows = list(source.rows())
    assert source.n_rows == len(rows) == 3
    assert [row.line for row in rows] == [1, 4, 5]
    assert [json.loads(bytes(row.record)) for row in rows] == [{"a": 1}, {"a": 2}, {"a": 3}]  # type: ignore[arg-type]


def test_rows_that_begin_alike_follow_each_other() -> None:
    def row(index: int, prompt: Any) -> Row:
        return Row(index, index, "", "plain", prompt)

    def talk(system: str, i: int) -> list[dict[str, str]]:
        return [{"role": "system", "content": system}, {"role": "user", "content": str(i)}]

    rows = [row(i, talk("ab"[i % 2], i)) for i in range(10)]
    order = [row.index for row in grouped(rows)]
    assert order == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert [row.index for row in grouped(rows, n_ahead=4)] == [0, 2, 1, 3, 4, 6, 5, 7, 8, 9]
    assert [row.index for row in grouped([row(0, "b" * 50), row(1, "a"), row(2, [1, 2])], ahead_bytes=40)] == [0, 2, 1]
    taken = iter(rows)
    next(grouped(taken, n_ahead=4))
    assert len(list(taken)) == 6, "no further ahead than that"
