"""GBNF, the grammar format of llama.cpp, translated to the Lark dialect that llguidance reads. Text to text; it knows
no tokens.

The two differ in one thing that matters: Lark has a lexer in front of the parser, GBNF does not. Every longest run of
literals and character classes therefore becomes one lexeme, so that inside a run the grammar means exactly what it
means to llama.cpp. Between a run and a rule the lexer takes the longest lexeme it can.

    root   ::= "[" item ("," item)* "]"         start: T1 r_item (T2 r_item)* T3
    item   ::= [a-z]+                           r_item: T4                T1: "[" ... T4: /[a-z]/+
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgeinfer.errors import GrammarError

MAX_DEPTH = 64

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*|\r\n|\r|\n)
    |(?P<define>::=)
    |(?P<name>[A-Za-z0-9_-]+)
    |(?P<literal>"(?:[^"\\\r\n]|\\.)*")
    |(?P<chars>\[(?:[^\]\\]|\\.)*\])
    |(?P<repeat>[*+?]|\{[ \t]*[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?\})
    |(?P<mark>[.()|])""",
    re.VERBOSE,
)
_CHARACTER = re.compile(
    r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt\\\"\[\]]))|([^\\])", re.DOTALL
)
_NAMED = {"n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class _Item:
    """One element of a sequence: a terminal in Lark's syntax, a rule's name, or a group; and how often it may occur."""

    terminal: str | None
    rule: _Token | None
    group: list[list[_Item]] | None
    repeat: str

    def rules(self) -> Iterator[_Token]:
        """Every rule named in here."""
        if self.rule:
            yield self.rule
        for sequence in self.group or ():
            for item in sequence:
                yield from item.rules()


_Alternatives = list[list[_Item]]


def to_lark(source: str) -> str:
    """The same grammar in Lark. Raises `GrammarError`, with the line, for what is malformed, undefined or nested too
    deeply."""
    rules = _Parser(_tokens(source)).rules()
    if "root" not in rules:
        raise GrammarError("the GBNF grammar has no rule named root")
    for alternatives in rules.values():
        for name in _named(alternatives):
            if name.text not in rules:
                raise GrammarError(f"the GBNF grammar uses {name.text!r} in line {name.line}, but no rule defines it")
    return _Writer(rules).lark()


def _named(alternatives: _Alternatives) -> Iterator[_Token]:
    return (name for sequence in alternatives for item in sequence for name in item.rules())


def _tokens(source: str) -> list[_Token]:
    tokens = []
    at, line = 0, 1
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise GrammarError(
                f"the GBNF grammar has {source[at : at + 20]!r} in line {line}, which starts nothing known"
            )
        kind, text = match.lastgroup or "", match.group()
        if kind != "space":
            tokens.append(_Token(kind, text, line))
        line += len(re.findall(r"\r\n|\r|\n", text))
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens. A rule ends where the next ``name ::=`` begins, so newlines need no care."""

    def __init__(self, tokens: list[_Token]) -> None:
        end = _Token("end", "the end", tokens[-1].line if tokens else 1)
        self._tokens = [*tokens, end, end]
        self._at = 0

    def rules(self) -> dict[str, _Alternatives]:
        rules: dict[str, _Alternatives] = {}
        while self._peek().kind != "end":
            name = self._take("name")
            self._take("define")
            if name.text in rules:
                raise GrammarError(f"the GBNF grammar defines {name.text!r} twice, again in line {name.line}")
            rules[name.text] = self._alternatives(0)
        return rules

    def _alternatives(self, depth: int) -> _Alternatives:
        if depth > MAX_DEPTH:
            raise GrammarError(f"the GBNF grammar is nested deeper than {MAX_DEPTH} groups in line {self._peek().line}")
        alternatives = [self._sequence(depth)]
        while self._peek().text == "|":
            self._at += 1
            alternatives.append(self._sequence(depth))
        return alternatives

    def _sequence(self, depth: int) -> list[_Item]:
        sequence: list[_Item] = []
        while True:
            token = self._peek()
            terminal, rule, group = None, None, None
            if token.kind == "name" and self._tokens[self._at + 1].kind != "define":
                rule = token
            elif token.kind == "literal":
                terminal = _literal(token)
            elif token.kind == "chars":
                terminal = _class(token)
            elif token.text == ".":
                terminal = "/(?s:.)/"
            elif token.text != "(":
                return sequence
            self._at += 1
            if token.text == "(":
                group = self._alternatives(depth + 1)
                if self._peek().text != ")":
                    raise GrammarError(f"the GBNF grammar has no ')' for the '(' in line {token.line}")
                self._at += 1
            repeat = "".join(self._take("repeat").text.split()) if self._peek().kind == "repeat" else ""
            sequence.append(_Item(terminal, rule, group, repeat))

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, kind: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            want = {"name": "the name of a rule", "define": "::="}[kind]
            raise GrammarError(f"the GBNF grammar has {token.text!r} in line {token.line} where {want} is due")
        self._at += 1
        return token


class _Writer:
    """Writes rules as Lark, deciding what becomes a lexeme."""

    def __init__(self, rules: dict[str, _Alternatives]) -> None:
        self._rules = rules
        self._lexemes: list[str] = []
        self._terminals = self._terminal_rules()
        self._names = {
            name: f"{'T' if name in self._terminals else 'r'}_{re.sub('[^A-Za-z0-9]', '_', name)}_{i}"
            for i, name in enumerate(rules)
        }
        self._names = {
            name: text.upper() if name in self._terminals else text.lower() for name, text in self._names.items()
        }

    def lark(self) -> str:
        lines = [f"start: {self._names['root']}"]
        for name, alternatives in self._rules.items():
            write = self._as_terminal if name in self._terminals else self._as_rule
            lines.append(f"{self._names[name]}: {write(alternatives)}")
        return "\n".join(lines + self._lexemes) + "\n"

    def _terminal_rules(self) -> set[str]:
        """Rules that lead to no recursion: all their parts are characters, or such rules."""
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        waits: dict[str, int] = {}
        for name, alternatives in self._rules.items():
            used = {token.text for token in _named(alternatives)}
            waits[name] = len(used)
            for other in used:
                users[other].append(name)
        ready = [name for name, n in waits.items() if n == 0]
        for name in ready:
            for user in users[name]:
                waits[user] -= 1
                if waits[user] == 0:
                    ready.append(user)
        return set(ready)

    def _is_terminal(self, item: _Item) -> bool:
        return all(token.text in self._terminals for token in item.rules())

    def _as_terminal(self, alternatives: _Alternatives) -> str:
        return " | ".join(" ".join(map(self._terminal_item, sequence)) or '""' for sequence in alternatives)

    def _terminal_item(self, item: _Item) -> str:
        if item.group is not None:
            return f"({self._as_terminal(item.group)}){item.repeat}"
        return (item.terminal or self._names[item.rule.text if item.rule else ""]) + item.repeat

    def _as_rule(self, alternatives: _Alternatives) -> str:
        return " | ".join(" ".join(self._runs(sequence)) or '""' for sequence in alternatives)

    def _runs(self, sequence: list[_Item]) -> Iterator[str]:
        run: list[_Item] = []
        for item in sequence:
            if self._is_terminal(item):
                run.append(item)
                continue
            if run:
                yield self._lexeme(run)
                run = []
            body = f"({self._as_rule(item.group)})" if item.group is not None else ""
            yield (body or self._names[item.rule.text if item.rule else ""]) + item.repeat
        if run:
            yield self._lexeme(run)

    def _lexeme(self, run: list[_Item]) -> str:
        name = f"T{len(self._lexemes) + 1}"
        self._lexemes.append(f"{name}: {self._as_terminal([run])}")
        return name


def _literal(token: _Token) -> str:
    """A literal as a regular expression: Lark's strings lack escapes for some characters."""
    text = "".join(map(_code, (c for c, _ in _characters(token, token.text[1:-1]))))
    return f"/{text}/" if text else '""'


def _code(c: str) -> str:
    return c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}"


def _class(token: _Token) -> str:
    """A character class as a regular expression."""
    body = token.text[1:-1]
    negated = body.startswith("^")
    characters = list(_characters(token, body[negated:]))
    parts = []
    at = 0
    while at < len(characters):
        first = last = characters[at][0]
        if at + 2 < len(characters) and characters[at + 1] == ("-", False):
            last = characters[at + 2][0]
            at += 2
        if last < first:
            raise GrammarError(
                f"the GBNF grammar has the range {first!r} to {last!r} in line {token.line}, which is empty"
            )
        parts.append(_code(first) + (f"-{_code(last)}" if last != first else ""))
        at += 1
    if not parts:
        raise GrammarError(f"the GBNF grammar has the empty class {token.text!r} in line {token.line}")
    return f"/[{'^' if negated else ''}{''.join(parts)}]/"


def _characters(token: _Token, body: str) -> Iterator[tuple[str, bool]]:
    """The characters that the body spells, and whether each was escaped."""
    at = 0
    while at < len(body):
        match = _CHARACTER.match(body, at)
        if match is None:
            raise GrammarError(f"the GBNF grammar has the unknown escape {body[at : at + 2]!r} in line {token.line}")
        number, named, plain = match[1] or match[2] or match[3], match[4], match[5]
        code = int(number, 16) if number else ord(_NAMED.get(named, named) if named else plain)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise GrammarError(f"the GBNF grammar has {match[0]!r} in line {token.line}, which is no character")
        yield chr(code), plain is None
        at = match.end()
