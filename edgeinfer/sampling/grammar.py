"""Grammars: JSON schemas, regular expressions, Lark and GBNF made into constraints on the next token, by llguidance.

It knows token bytes and sources of grammars; nothing of text, models or requests. It fails closed: what is malformed,
unsupported or too large is a `GrammarError` before anything is generated, and an answer that cannot go on is an error,
not free text.

Answers to a JSON schema are written as Python's ``json.dumps`` writes them: one space after a comma and a colon, no
other whitespace; models know that form, and none can spend its answer on spaces. Keywords that a schema may carry as
remarks (``title``, ``description``, unknown ones) are ignored, as the specification wants.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeinfer import process
from edgeinfer.core import Grammar, GrammarKind
from edgeinfer.errors import EngineError, GrammarError
from edgeinfer.sampling import gbnf, json_schema, workroom
from edgeinfer.sampling.sampler import Constraint
from edgeinfer.sampling.samplers import Floats

if TYPE_CHECKING:
    from edgeinfer.text.tokenizer import Vocabulary

_MAX_DEPTH = 64
_LIMITS = {  # llguidance's own, lowered: it allows seconds of work and 500 MB of lexer states
    "initial_lexer_fuel": 100_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 500_000,
    "step_max_items": 50_000,
    "step_lexer_fuel": 200_000,
}
# Tokens may be split in any way that spells the text: forced ones would need the model's own tokenizer in here.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


def compile_grammar(grammar: Grammar, vocabulary: Vocabulary) -> Callable[[], Constraint]:
    """Compile for this vocabulary. Each call of the result gives a request its own fresh `Constraint`.

    The first use of a vocabulary takes 0.2 to 1.2 s (50 to 260 thousand tokens); a grammar then about a millisecond.
    Raises `GrammarError`, saying what and where, for a source that is malformed, unsupported, unsatisfiable, over 256
    KiB, nested deeper than 64, or not compiled in 10 s.
    """
    what, most, to_lark = _KINDS[grammar.kind]
    source = grammar.source
    n_bytes = len(source.encode("utf-8", "surrogatepass"))
    if n_bytes > most:
        raise GrammarError(f"{what} has {n_bytes} bytes, but at most {most} are allowed")
    if "\0" in source or any("\ud800" <= c <= "\udfff" for c in source):
        raise GrammarError(f"{what} holds a NUL or half a surrogate pair, which no text can match")
    lark = to_lark(source) + _OPTIONS
    tokens = _tokens_of(vocabulary)

    def build() -> _Match:
        try:
            return workroom.run(lambda: _Match(tokens, lark, what), what)
        except GrammarError as error:
            raise GrammarError(_placed(str(error), grammar)) from None

    ready = [
        build()
    ]  # each request needs a matcher of its own: copies share llguidance's lexer, and with it its limits

    def fresh() -> Constraint:
        try:
            return ready.pop()
        except IndexError:
            return build()

    return fresh


class _Tokens:
    """A vocabulary as llguidance knows it. ``usable`` marks, one bit a token, those that are text or end the answer;
    control tokens are neither, and no grammar admits them."""

    is_tokenizer_wrapper = True  # what llguidance looks for
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        import llguidance

        ends = sorted(vocabulary.eog_ids)
        at_once = getattr(vocabulary, "all_token_bytes", None)  # twice as fast, where a vocabulary has it
        pieces = at_once() if at_once else [vocabulary.token_bytes(i) for i in range(vocabulary.n_vocab)]
        # llguidance reads a leading 0xFF as the mark of a special token. No UTF-8 has that byte.
        self.tokens = [b"" if b"\xff" in piece else piece for piece in pieces]
        for i in ends:
            self.tokens[i] = b""
        usable = np.fromiter((bool(piece) for piece in self.tokens), np.bool_, len(self.tokens))
        usable[ends] = True
        # One token must be special: without an end of its own the vocabulary gets one past its last, where no row goes.
        self.eos_token_id = ends[0] if ends else len(self.tokens)
        self.bos_token_id = None
        self.tokens[self.eos_token_id : self.eos_token_id + 1] = [b"\xff<end of answer>"]
        self.native = llguidance.LLTokenizer(self, len(self.tokens), ends or [self.eos_token_id])
        self.n_vocab = vocabulary.n_vocab
        self.ends = frozenset(ends)
        self.usable = _words(usable, len(self.tokens))
        self.tokens = []

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("forced tokens are switched off")


class _Match:
    """How far one answer has matched. Not thread-safe; raises `GrammarError` when made, `EngineError` after that."""

    def __init__(self, tokens: _Tokens, lark: str, what: str) -> None:
        import llguidance

        self._tokens, self._what = tokens, what
        limits = llguidance.LLParserLimits(**_LIMITS, verbose_errors=False)
        self._matcher = llguidance.LLMatcher(tokens.native, lark, log_level=0, limits=limits)
        self._words = np.zeros_like(tokens.usable)
        self._fresh = False  # whether _words are those of the present state
        if self._matcher.is_error():
            raise GrammarError(f"{what} is refused: {_reason(self._matcher.get_error())}")
        self._refresh(GrammarError)

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def mask(self, logits: Floats) -> None:
        """Set what cannot come next to -inf, in place. Raises `EngineError` when nothing can, or llguidance gives
        up."""
        if logits.size < self._tokens.n_vocab:
            raise EngineError(f"the model has {logits.size} logits but its vocabulary {self._tokens.n_vocab} tokens")
        if not self._fresh:
            self._refresh(EngineError)
        _apply(logits, self._words, self._tokens.n_vocab)

    def accept(self, token_id: int) -> None:
        """Advance. Raises `EngineError` for a token that `mask` forbids."""
        if self.finished and token_id in self._tokens.ends:
            return
        self._fresh = False
        if not self._matcher.consume_token(token_id):
            raise EngineError(
                f"{self._what} does not admit token {token_id} here: {_reason(self._matcher.get_error())}"
            )

    def fits(self, token_ids: Sequence[int]) -> int:
        if self.finished:
            return 0
        n_known = next((i for i, each in enumerate(token_ids) if each >= self._tokens.n_vocab), len(token_ids))
        return int(self._matcher.validate_tokens(list(token_ids[:n_known])))  # one past them would break the matcher

    def _refresh(self, error: type[GrammarError] | type[EngineError]) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error():  # its mask would then be an early end
            raise error(f"{self._what} cannot be followed any further: {_reason(self._matcher.get_error())}")
        self._words &= self._tokens.usable
        if not self._words.any():
            raise error(f"{self._what} admits no token of this vocabulary here")
        self._fresh = True


def _words(flags: npt.NDArray[np.bool_], n: int) -> npt.NDArray[np.uint32]:
    """Flags as bits, lowest first, in whole 32-bit words."""
    padded = np.zeros((n + 31) // 32 * 32, np.bool_)
    padded[: flags.size] = flags
    return np.packbits(padded, bitorder="little").view(np.uint32)


def _apply(logits: Floats, words: npt.NDArray[np.uint32], n_vocab: int) -> None:
    bits = np.unpackbits(words.view(np.uint8), count=n_vocab, bitorder="little")
    logits[n_vocab:] = -np.inf  # rows can be padded past the vocabulary
    row = logits[:n_vocab]
    if np.count_nonzero(bits) < n_vocab // 64:
        allowed = np.flatnonzero(bits.view(np.bool_))
        kept = row[allowed]
        row.fill(-np.inf)
        row[allowed] = kept
    else:  # add 0 or -inf, made from the bits without a branch: 0 - 1 is all ones, of which -inf keeps the upper nine
        minus = bits.astype(np.int32)
        minus -= 1
        minus &= np.int32(-0x800000)
        row += minus.view(np.float32)


_KNOWN: weakref.WeakKeyDictionary[Vocabulary, _Tokens] = weakref.WeakKeyDictionary()
_KNOWN_LOCK = threading.Lock()


def _renew() -> None:
    global _KNOWN_LOCK
    _KNOWN_LOCK = threading.Lock()


process.in_forked_child(_renew)


def _tokens_of(vocabulary: Vocabulary) -> _Tokens:
    with _KNOWN_LOCK:
        tokens = _KNOWN.get(vocabulary)
        if tokens is None:
            tokens = _KNOWN[vocabulary] = _Tokens(vocabulary)
        return tokens


def _regex_to_lark(source: str) -> str:
    """A grammar of one lexeme, which the whole answer must match."""
    import llguidance

    depth = 0
    in_class = False
    for mark in re.findall(r"\\.|[\[\]()]", source, re.DOTALL):
        in_class = (in_class or mark == "[") and mark != "]"
        depth += 0 if in_class else {"(": 1, ")": -1}.get(mark, 0)
        if depth > _MAX_DEPTH:
            raise GrammarError(f"the regular expression is nested deeper than {_MAX_DEPTH} groups")
    return f"start: /{llguidance.regex_to_lark(source)}/" if source else 'start: ""'


def _checked_lark(source: str) -> str:
    """Lark as it is, but for attributes that ask for what a mask cannot give, and for rules with parameters, which
    llguidance can expand without end."""
    for number, line in enumerate(source.splitlines(), 1):
        header = re.match(r"\s*[!?]*\w[\w-]*\s*(?:\[([^\]]*)\]|::)", line)
        wanted = header and (header[1] is None or re.search(r"\b(temperature|stop)\b", header[1]))
        if wanted:
            asked = "a rule with a parameter" if wanted is True else f"the attribute {wanted[1]}"
            raise GrammarError(f"the Lark grammar has {asked} in line {number}, which is not supported")
    return source


_KINDS: dict[GrammarKind, tuple[str, int, Callable[[str], str]]] = {
    "json_schema": ("the JSON schema", 256 << 10, json_schema.to_lark),
    "regex": ("the regular expression", 64 << 10, _regex_to_lark),
    "lark": ("the Lark grammar", 64 << 10, _checked_lark),
    "gbnf": ("the GBNF grammar", 64 << 10, gbnf.to_lark),
}


_REGEX_ERROR = re.compile(
    r"(?:invalid regex [^\n]*)?regex parse error:\n {4}([^\n]*)\n {4}( *)\^+ *\nerror: ([^\n]+)", re.DOTALL
)


def _reason(message: str) -> str:
    """llguidance's message as one short line: no backtrace, no picture of the source."""
    text = message.split("<backtrace>")[0].split("<non-verbose/>")[0]
    text = re.split(r"\n +\d+ \| ", text)[0]
    if text.startswith("NoExtension"):
        return "nothing matches it"
    if error := _REGEX_ERROR.search(text):
        pattern, before, what = error.groups()
        text = f"{text[: error.start()]}{what}, at character {len(before) + 1} of '{pattern}'"
    text = re.sub(r"^(?:at )?(\d+)\((\d+)\): ", r"line \1, column \2: ", text)
    text = " ".join(text.replace("failed to compile JSON schema: ", "").split())
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


def _placed(message: str, grammar: Grammar) -> str:
    """The message with a place in the user's own source: lines of Lark that we wrote would only mislead."""
    if grammar.kind == "lark":
        return message
    message = re.sub(r"line \d+, column \d+: ", "", message, count=1)
    return message + (json_schema.where(grammar.source, message) if grammar.kind == "json_schema" else "")
