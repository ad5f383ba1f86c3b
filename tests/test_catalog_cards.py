"""Model cards: the catalogue's own, and how strictly one is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_cards import card_text

from edgeinfer import catalog
from edgeinfer.catalog import card as card_module
from edgeinfer.errors import FormatError


def test_the_catalogue() -> None:
    cards = catalog.cards()
    assert set(cards) == {"smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"}
    assert catalog.DEFAULT_MODEL in cards
    assert [card.bytes for card in cards.values()] == sorted(card.bytes for card in cards.values())
    assert cards["qwen2.5-coder-1.5b"].draft == "qwen2.5-coder-0.5b"
    assert cards["gemma3-270m"].template.format == "none"
    for card in cards.values():
        assert card.source[0].kind == "pip"
        assert card.memory_bytes > card.bytes


def test_part_names() -> None:
    source = catalog.PipSource("a-{n}==1", "a{n}/p{i:02}-{n:03}.bin", 12)
    assert source.part(0) == ("a-1==1", "a1/p00-001.bin")
    assert source.part(11) == ("a-12==1", "a12/p11-012.bin")


def test_a_card_is_read_whole() -> None:
    card = card_module.parse_card(card_text(), "tiny.toml")
    assert (card.name, card.bytes, card.draft, card.template.notes) == ("tiny", 1, None, "")
    assert card.source == (
        catalog.PipSource("edgeinfer-test-part{n}==1.0", "edgeinfer_test_part{n}/part{i:02}.bin", 3),
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('quant = "Q8_0"', 'quant = "Q8_0"\ncolour = "red"', "unknown key 'colour'"),
        ("parts = 3", 'parts = 3\nhost = "x"', "unknown key 'host'"),
        ('format = "chatml"', 'format = "morse"', "must be one of none, chatml"),
        ('format = "chatml"', 'format = "chatml"\nfoo = 1', "unknown key 'foo'"),
        ('licence = "mit"', "", "lacks the key 'licence'"),
        ('licence = "mit"', "licence = 3", "licence must be text"),
        ("bytes = 1\n", 'bytes = "1"\n', "bytes must be a whole number"),
        ("bytes = 1\n", "bytes = true\n", "bytes must be a whole number"),
        ("bytes = 1\n", "bytes = 0\n", "bytes 0 cannot be right"),
        ('name = "tiny"', 'name = "../tiny"', "cannot be right"),
        ('file = "tiny.gguf"', 'file = "../tiny.gguf"', "cannot be right"),
        ('file = "tiny.gguf"', 'file = "tiny.bin"', "cannot be right"),
        ('sha256 = "', 'sha256 = "G', "sha256 .* cannot be right"),
        ('kind = "pip"', 'kind = "ftp"', "must be one of pip, hf"),
        ("parts = 3", "parts = 0", "parts 0 cannot be right"),
        ("parts = 3", "parts = 99999", "parts 99999 cannot be right"),
        ("==1.0", ">=1.0", "requirement .* cannot be right"),
        ("edgeinfer-test-part{n}==", "--index-url=http://x ", "requirement .* cannot be right"),
        ("edgeinfer_test_part{n}/", "../", "member .* cannot be right"),
        ("{i:02}", "{n!r}", "member .* cannot be right"),
        ("[[source]]", "[[sauce]]", r"there is no \[\[source\]\]"),
        ('description = "a tiny model"', "description = ", "model card tiny.toml"),
        ('quant = "Q8_0"', 'quant = "Q8_0"\ndraft = "tiny"', "draft 'tiny' cannot be right"),
    ],
)
def test_cards_are_strict(old: str, new: str, says: str) -> None:
    assert old in card_text()
    with pytest.raises(FormatError, match=says) as refused:
        card_module.parse_card(card_text().replace(old, new), "tiny.toml")
    assert "\n" not in str(refused.value)


def test_a_card_is_named_after_its_model(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(card_text())
    with pytest.raises(FormatError, match="must share the name"):
        card_module.read_card(tmp_path / "other.toml")
