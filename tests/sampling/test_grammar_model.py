"""Grammars over a real vocabulary: tokens that cross every border of JSON, and control tokens that never come out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.core import Grammar, GrammarKind, SamplingParams
from edgeinfer.sampling import Sampler
from edgeinfer.sampling.grammar import compile_grammar
from edgeinfer.text.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 5},
        "kind": {"enum": ["big", "small"]},
    },
    "required": ["name", "sizes", "kind"],
    "additionalProperties": False,
}
GBNF = 'root ::= "- " item ("\\n- " item)*\nitem ::= [^\\n]+'


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "source"),
    [("json_schema", json.dumps(SCHEMA)), ("regex", r"([A-Z][a-z]{1,9} ){2,5}[0-9]{4}\."), ("gbnf", GBNF)],
)
def test_random_answers_conform_and_hold_no_control_token(smollm2: Path, kind: GrammarKind, source: str) -> None:
    with Tokenizer.from_gguf(smollm2) as tokenizer:
        fresh = compile_grammar(Grammar(kind, source), tokenizer)
        ends = list(tokenizer.eog_ids)
        n_finished = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            sampler = Sampler(SamplingParams(seed=seed, top_k=0), tokenizer.n_vocab, (), constraint=fresh())
            ids: list[int] = []
            while not sampler.finished and len(ids) < 300:
                logits = rng.standard_normal(tokenizer.n_vocab).astype(np.float32)
                logits[ends] = 15  # ends as soon as it may
                ids.append(sampler.sample(logits).token_id)
                sampler.accept(ids[-1])
            if sampler.finished:
                n_finished += 1
                text = tokenizer.decode(i for i in ids if i not in tokenizer.eog_ids)
                assert not set(ids) & (set(tokenizer.control_tokens.values()) - tokenizer.eog_ids)
                if kind == "json_schema":
                    value = json.loads(text)
                    assert list(value) == ["name", "sizes", "kind"]
                    assert len(value["name"]) <= 20
                    assert len(value["sizes"]) <= 5
                else:
                    assert re.fullmatch(source if kind == "regex" else r"- [^\n]+(\n- [^\n]+)*", text)
        assert n_finished >= 15
