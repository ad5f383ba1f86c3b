"""Proof that a GGUF file splits text as its checkpoint's tokenizer does: hard texts, split by both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeinfer.converters.huggingface.checkpoint import Checkpoint
from edgeinfer.text import Tokenizer

__all__ = ["HARD_TEXTS", "differing"]

HARD_TEXTS: tuple[str, ...] = (
    "Hello, world!",
    "I'm sure they'll say we've won't it's I'D THEY'LL don't",
    "The year 2024, pi 3.14159265358979, 1234567890123456789012345678901234567890 and 007",
    "def f(x):\n    return x ** 2  # squared\n\n\nclass A:\n\tpass\n",
    'printf("%d\\n", a[i]->b.c && !d || e ^= 0xFF);',
    "if (x<=y&&z!=w){x+=1;y--;}//comment\r\n\r\n  \r\n#include <stdio.h>",
    " leading and trailing ",
    "   three   spaces   everywhere   ",
    "tabs\t\tand\n\n\n\nnewlines \n \n mixed \t\n",
    "a" + " " * 33 + "b" + "\n" * 17 + "c" + "\t" * 9,
    "ÀÉÎÕÜ àéîõü ñ ç ß Straße ŁÓDŹ naïve café",
    "e\u0301 o\u0308 n\u0303 a\u030a decomposed, and \u00e9 \u00f6 composed",
    "Привет, как дела? Ёжик съел щи.",
    "Γειά σου Κόσμε, τι κάνεις;",
    "你好，世界！今天天气怎么样？我们去北京吧。",
    "こんにちは、世界。カタカナとひらがな、漢字。ﾊﾝｶｸ",
    "안녕하세요 세계, 오늘은 어때요?",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣٤٥",
    "שלום עולם, מה שלומך?",
    "नमस्ते दुनिया, आप कैसे हैं? १२३",
    "สวัสดีชาวโลก คุณเป็นอย่างไรบ้าง",
    "வணக்கம் உலகம் తెలుగు ಕನ್ನಡ മലയാളം বাংলা",
    "😀😃👍🏽👨‍👩‍👧‍👦🇩🇪🏳️‍🌈❤️🧑🏿‍💻 emoji",
    "∑∫√∞≠≤≥±×÷∂∇ αβγδ ℝℂℕ x²+y³=z¹ ½⅓ ™©®",
    "“quotes” ‘single’ «guillemets» — dash – en … dots · bullet • †",
    "𝐁𝐨𝐥𝐝 𝒮𝒸𝓇𝒾𝓅𝓉 𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𠜎𠜱𠝹 𐍈𐌰",
    "zero\u200bwidth\u200dand\u2060joiners\ufeffbom \u00adsoft",
    "non\u00a0breaking\u2003em\u2009thin\u3000ideographic spaces",
    "control \x01\x02\x07\x0b\x0c\x1b[31m\x7f bytes",
    "<s> </s> <unk> <pad> <bos> <eos> [CLS] [SEP] [MASK] [UNK] [PAD]",
    "<|im_start|>user\nhi<|im_end|> <|endoftext|><|begin_of_text|><|eot_id|> <start_of_turn>",
    "<0x0A> <0xFF> ▁▁ ▁underscore Ġword Ċ ##piece <|x|> <extra_id_0>",
    "https://example.org/path?q=1&r=%20#frag user.name+tag@mail.example.co.uk",
    "CamelCaseWordsAndsnake_case_words and kebab-case-words UPPERCASE123lower",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "!!!??? ... --- === *** ((())) [[[]]] {{{}}} $$$ ### @@@ ~~~ ``` |||",
    "'s 't 're 've 'm 'll 'd 'S 'T ’s ’t '' \"\" `` ''a",
    "1,234,567.89 -42 +7 1e-10 0x1F 0b1010 12:34:56 2024-01-31 v1.2.3 ①②③ Ⅷ ٣",
    "\ufffd replacement \u0378 unassigned \ue000 private \U0010ffff",
    "x",
    " ",
    "\n",
    "  \n",
    "\u00e9",
)
"""Scripts, emoji, code, runs of whitespace, long digit strings, control bytes, and what looks like special tokens."""


def differing(checkpoint: Checkpoint, model: Path) -> Sequence[str] | None:
    """The hard texts that the two split otherwise. None where the tokenizers library or a tokenizer.json is not
    there to compare with."""
    path = checkpoint.folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        import tokenizers
    except ImportError:
        return None
    theirs: Any = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    theirs.no_truncation()
    theirs.no_padding()
    with Tokenizer.from_gguf(model) as ours:
        return [text for text in HARD_TEXTS if _theirs(theirs, text) != ours.encode(text, parse_special=True).tolist()]


def _theirs(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
