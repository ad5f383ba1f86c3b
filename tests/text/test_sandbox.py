"""Hostile chat templates: none reaches anything, none runs long or grows large."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from edgeinfer.errors import TemplateError
from edgeinfer.text import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello world"}, {"role": "assistant", "content": "<b>hi</b>"}]


def outcome(source: str, **extra: Any) -> str:
    """What the template writes, or the error."""
    try:
        return ChatTemplate(source, bos_text="<s>", eos_text="</s>").render(MESSAGES, extra=extra)
    except TemplateError as error:
        return f"error: {error}"


# ---- escapes

SUBCLASSES = "().__class__.__mro__[1].__subclasses__()"
ESCAPES = [
    "{{ {} }}".replace("{}", f"''{SUBCLASSES[2:]}"),
    f"{{{{ {SUBCLASSES} }}}}",
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'].mro() }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ [''] | map(attribute='__class__') | list }}",
    "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "{{ [''] | map('attr', '__class__') | list }}",
    "{{ [{}] | sum(attribute='__class__') }}",
    "{{ [''] | groupby('__class__') | list }}",
    "{{ [''] | sort(attribute='__class__') }}",
    "{{ [''] | selectattr('__class__') | first }}",
    "{{ [''] | unique(attribute='__class__') | list }}",
    "{{ [''] | max(attribute='__class__') }}",
    "{{ [''] | join('', attribute='__class__') }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0[0]}'.format(messages) }}",
    "{{ '{x.__init__}'.format(x=messages) }}",
    "{{ '{0.__class__}'['format']('') }}",
    "{{ ['{0.__class__}'] | map('format', '') | list }}",
    "{{ '{0.__class__}'.format_map({'0': ''}) }}",
    "{{ ('{0.__class__}'|string).format('') }}",
    "{{ ['{0.__class__}'.format] | map('attr', 'x') | list }}",
    "{% set f = '{0.__class__.__init__.__globals__}'.format %}{{ f(messages) }}",
    "{{ '%(x)s'.__mod__ }}",
    "{{ '%s' | format(raise_exception.__globals__) }}",
    "{{ raise_exception.__globals__['os'] }}",
    "{{ raise_exception.__code__ }}",
    "{{ raise_exception.__closure__ }}",
    "{{ range.__class__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace.__class__ }}",
    "{{ namespace(x=1).__class__ }}",
    "{{ namespace(x=1)._Namespace__attrs }}",
    "{{ namespace(__class__=1).__class__.__mro__ }}",
    "{{ dict.__base__ }}",
    "{{ dict.fromkeys }}",
    "{{ dict.mro() }}",
    "{{ lipsum.__globals__['os'].popen('touch {side}').read() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch {side}').read() }}",
    "{{ joiner.__init__.__globals__.os }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ self }}",
    "{{ request.application.__globals__ }}",
    "{{ config.items() }}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ undefined_name.__class__ }}",
    "{{ undefined_name._undefined_message }}",
    "{{ undefined_name.__init__.__globals__ }}",
    "{{ messages.__class__ }}",
    "{{ messages.append(1) }}{{ messages }}",
    "{{ messages.clear() }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ messages[0].setdefault('x', 1) }}",
    "{{ messages[0].__setitem__('role', 'x') }}",
    "{{ messages[0].content.__class__ }}",
    "{{ messages[0].content._text }}{{ messages[0].content._marks }}",
    "{{ messages[0].content._marks._to_text }}",
    "{{ messages[0].content.encode('utf-8') }}",
    "{{ messages[0].content.split.__self__ }}",
    "{{ messages[0].content.split._sandbox }}",
    "{{ messages[0].content.split._target }}",
    "{{ messages[0].content.translate({}) }}",
    "{{ messages[0].content.maketrans('a', 'b') }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    "{% macro m() %}{{ caller._environment }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% for x in messages %}{{ loop._iterator }}{% endfor %}",
    "{% for x in messages %}{{ loop.__class__ }}{% endfor %}",
    "{% for x in messages %}{{ loop._undefined }}{% endfor %}",
    "{% for x in messages %}{{ loop._recurse }}{% endfor %}",
    "{{ (messages | map('upper')).gi_frame }}",
    "{{ (messages | map('upper')).gi_code }}",
    "{{ (1).__class__ }}{{ (1).bit_length }}{{ (1.5).fromhex }}",
    "{{ (1).real.__class__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import system %}",
    "{% extends 'x' %}",
    "{% block x %}{{ self.x.__func__ }}{% endblock %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% debug %}",
    "{{ _each }}{{ '' | _each }}",
    "{{ '' | _written }}",
    "{{ environment }}{{ context }}{{ resolve }}{{ undefined }}",
    "{{ __builtins__ }}{{ __import__('os') }}",
    "{{ open('{side}', 'w') }}",
    "{{ eval('1') }}{{ exec('1') }}",
    "{{ strftime_now.__globals__ }}",
    "{{ strftime_now('%x' * 1).__class__ }}",
    "{{ ''.join.__self__ }}",
    "{{ messages | map('call') | list }}",
    "{{ messages | tojson(default=raise_exception) }}",
    "{{ messages | tojson(cls=dict) }}",
    "{{ messages | pprint }}",
    "{{ messages | xmlattr }}",
    "{% set messages.x = 1 %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__ }}",
    "{% for messages[0].role in 'ab' %}{% endfor %}{{ messages }}",
]
LEAKS = (
    "<class",
    "<function",
    "<module",
    "<bound",
    "<built-in",
    "subclasses",
    "<frame",
    "<code",
    "object at 0x",
    "environ",
)


EFFECTS = ("ctypes", "exec", "import", "open", "os", "shutil", "socket", "subprocess")


@pytest.fixture(scope="module")
def events() -> Iterator[list[str]]:
    """Names of audit events with effects outside the interpreter. A hook cannot be taken away, so there is one."""
    seen: list[str] = []
    active = True

    def hook(event: str, _args: tuple[Any, ...]) -> None:
        if active and event.partition(".")[0] in EFFECTS and event != "exec":  # every compiled template is executed
            seen.append(event)

    sys.addaudithook(hook)
    yield seen
    active = False


def test_there_are_enough_escapes() -> None:
    assert len(set(ESCAPES)) >= 60


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_escapes(source: str, events: list[str]) -> None:
    outcome("{{ messages[0].role | no_such }}")  # what is imported at first use is imported
    events.clear()
    result = outcome(source.replace("{side}", "edgeinfer-escaped"))
    assert "\n" not in result
    assert len(result) < 500
    assert not events
    if not result.startswith("error: "):
        assert not [leak for leak in LEAKS if leak in result], result
        assert result in ("", " ", "['']", "[Undefined]", "[Undefined, Undefined]") or "hello world" in result, result


def test_messages_are_unchanged_by_templates() -> None:
    given = [{"role": "user", "content": "x", "list": [1, 2]}]
    source = "{% for m in messages %}{% set m = {} %}{% endfor %}{{ messages[0].list + [3] }}{{ messages[0].list }}"
    assert ChatTemplate(source).render(given) == "[1, 2, 3][1, 2]"
    assert given == [{"role": "user", "content": "x", "list": [1, 2]}]


# ---- templates that take too much

DOUBLING = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
GROWN = "{% set n = namespace(s='ab') %}{% for i in range(19) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
GREEDY = [
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{% if a == b %}{% endif %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ range(10**9) | list }}",
    "{{ 'a' * 10**10 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ('a' * 10**6) * 10**6 }}",
    "{{ [1] * 10**10 }}",
    "{{ (1,) * 10**10 }}",
    "{{ 9**9**9**9 }}",
    "{% set n = namespace(x=3) %}{% for i in range(100) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(x=1) %}{% for i in range(100000) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=[1]) %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s.replace('a', n.s) %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s|replace('a', n.s) %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s.join([n.s, n.s]) %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = [n.s, n.s]|join %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set x %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% set n.s = x %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = '{0}{0}'.format(n.s) %}{% endfor %}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.rjust(10**10) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ ('\t' * 1000).expandtabs(10**9) }}",
    "{{ 'a\nb' | indent(10**10) }}",
    "{{ ('\n' * 100000) | indent(100000) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.9999999999f' | format(1.0) }}",
    "{{ '{:>9999999999}'.format('a') }}",
    "{{ '{:{}}'.format('a', 10**9) }}",
    "{{ strftime_now('%999999999d') }}",
    "{{ [1] | tojson(indent=10**10) }}",
    "{{ 1.5 | round(10**9, 'floor') }}",
    "{{ ('9' * 1000000) | int }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
    DOUBLING + "{{ n.x }}",
    DOUBLING + "{{ n.x | tojson }}",
    DOUBLING + "{{ n.x | string }}",
    DOUBLING + "{{ n.x ~ '' }}",
    DOUBLING + "{{ n.x | join }}",
    DOUBLING + "{{ '%s' % [n.x] }}",
    DOUBLING + "{{ '{}'.format(n.x) }}",
    DOUBLING + "{% set y = n.x %}" + DOUBLING + "{{ n.x == y }}",
    DOUBLING + "{% set y = n.x %}" + DOUBLING + "{{ n.x in [y] }}",
    DOUBLING + "{% set y = n.x %}" + DOUBLING + "{{ [y].index(n.x) }}",
    DOUBLING + "{% set y = n.x %}" + DOUBLING + "{{ [n.x, y] | sort }}",
    DOUBLING + "{% set y = n.x %}" + DOUBLING + "{{ n.x is eq y }}",
    "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
    GROWN + "{% set b = 'b' ~ n.s[:500000] %}{{ n.s.rfind(b) }}",
    GROWN + "{% set b = 'b' ~ n.s[:500000] %}{{ n.s.strip(b) }}",
    GROWN + "{% for i in range(90000) %}{{ n.s.upper() == n.s.lower() }}{% endfor %}",
    GROWN + "{% for i in range(90000) %}{% if n.s.count('ab') == 1 %}{% endif %}{% endfor %}",
    GROWN + "{{ [" + "n.s[1:]," * 5000 + "] | length }}",
    GROWN + "{{ " + "'xy' in n.s or " * 2000 + "1 }}",
    GROWN + "{% set l = [n.s] * 1000 %}{{ l | sort }}",
    GROWN + "{% for c in n.s %}{% for d in n.s %}{% endfor %}{% endfor %}",
    GROWN + "{{ n.s | list | length }}{% for i in range(500) %}{% set x = n.s | list %}{% endfor %}",
    GROWN + "{% for i in range(500) %}{% set x = n.s.split('a') | join('b') %}{% endfor %}",
    "{{ range(100000) | map('string') | map('upper') | join('x' * 1000) }}",
    "{{ [range(100000)] * 1000 | sum(start=[]) }}",
    "{% set n = namespace(l=[]) %}{% for i in range(100000) %}{% set n.l = n.l + ['x' * 1000] %}{% endfor %}",
    "{{ lipsum(1000000) }}",
    "{" * 100000,
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "{{ " + "1+" * 20000 + "1 }}",
    "{{ " + "not " * 20000 + "1 }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{{ 1" + "|abs" * 20000 + " }}",
    "{{ x" + ".a" * 20000 + " }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "{% for x in [1] %}" * 200 + "{% endfor %}" * 200,
    "{{ 1 }}" * 9000,
    "{% for x in y %}{% if a %}" * 19 + "{{ a }}" * 9000 + "{% endif %}{% endfor %}" * 19,
    "{{ a[1:2] }}" * 5000,
    "x" * 10_000_000,
]


def test_there_are_enough_greedy_templates() -> None:
    assert len(set(GREEDY)) >= 20


@pytest.mark.parametrize("source", GREEDY, ids=lambda source: source[:60])
def test_greedy_templates_stop(source: str) -> None:
    began = time.thread_time()  # what it takes of this machine, however busy the machine is
    result = outcome(source)
    assert time.thread_time() - began < 3
    assert result.startswith("error: ") or len(result) <= 1 << 20


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is not on Windows")
def test_greedy_templates_take_little_memory() -> None:
    """In a process of its own, whose peak is nobody else's."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import test_sandbox as t; t.outcome('x')\n"
        "unit = 1 if sys.platform == 'darwin' else 1024\n"
        "begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit\n"
        "for source in t.GREEDY[::4]: t.outcome(source)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - begin)"
    )
    folder = __file__.rpartition("test_sandbox")[0]
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 300 << 20


def test_a_long_conversation_is_no_attack() -> None:
    """Limits grow with the messages: they bound what the template adds."""
    text = "word " * 600_000
    source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '\n' }}{% endfor %}"
    messages = [{"role": "user", "content": text}, *[{"role": "assistant", "content": "short"}] * 4000]
    assert len(ChatTemplate(source).render(messages)) > len(text)
