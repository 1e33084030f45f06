"""A chat template cannot exceed its limits of time and memory, whatever it does."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vocabridge.alignment.tokenizers.template_renderer import TemplateError, render

MESSAGES = [{"role": "user", "content": "hi"}]
GROWING = "{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{{% set ns.x = {more} %}}{{% endfor %}}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' | center(100000000000) }}",
        "{{ 'a'.ljust(100000000000) }}",
        "{{ '%100000000000d' | format(1) }}",
        "{{ '{:100000000000}'.format(1) }}",
        "{{ range(100000) | list | map('string') | map('center', 100000) | list | length }}",
        GROWING.format(start="'a'", more="ns.x ~ ns.x"),
        GROWING.format(start="'a'", more="ns.x + ns.x"),
        GROWING.format(start="[1]", more="ns.x + ns.x"),
        GROWING.format(start="'a'", more="ns.x | replace('a', 'aa')"),
    ],
)
def test_a_template_that_tries_to_take_all_memory_is_stopped(template):
    with pytest.raises(TemplateError, match="it takes too much memory"):
        render(template, {}, MESSAGES)
    assert render("{{ messages[0].content }}", {}, MESSAGES) == "hi"


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        GROWING.format(start="3", more="ns.x * ns.x"),
        GROWING.format(start="[1]", more="[ns.x, ns.x]") + "{{ ns.x }}",
        "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}"
        "{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}",  # one operation, which nothing in Python can stop
    ],
)
def test_a_template_that_does_not_end_is_stopped(template):
    with pytest.raises(TemplateError, match=r"it takes too (long|much memory)"):
        render(template, {}, MESSAGES)
    assert render("{{ messages[0].content }}", {}, MESSAGES) == "hi"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("(" * 9 + "{{" + "(" * 3000, "RecursionError"),
        ("{{ 'x' * 10 }}", r"it uses \* on str"),
        ("{% for i in range(90000) %}{{ messages[0].content * 1 }}{% endfor %}", "on str"),
        ("{% for i in range(90000) %}twelve chars{% endfor %}", "it writes too much"),
        ("{{ raise_exception('no system message') }}", "^no system message$"),
        ("{{ nothing.more }}", "UndefinedError"),
        ("{% for", "TemplateSyntaxError"),
    ],
)
def test_an_error_says_why_a_template_fails(template, says):
    with pytest.raises(TemplateError, match=says):
        render(template, {}, MESSAGES)


def test_messages_may_hold_any_json_and_nothing_else():
    class Own(dict):
        pass

    told = [Own(role="user", content=({"type": "text", "text": "é\ud800"}, 1.5, None, True))]
    assert (
        render("{{ messages[0].content[0].text }}{{ messages[0].content[1:] }}", {}, told) == "é\ud800[1.5, None, True]"
    )
    with pytest.raises(TemplateError, match="the messages are not JSON: they hold a value of type object"):
        render("", {}, [{"role": "user", "content": object()}])


def test_a_forked_process_renders_with_a_process_of_its_own():
    assert render("{{ messages[0].content }}", {}, MESSAGES) == "hi"
    child = os.fork()
    if child == 0:
        text = render("{{ messages[0].content }}!", {}, MESSAGES)
        os._exit(0 if text == "hi!" else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert render("{{ messages[0].content }}", {}, MESSAGES) == "hi"


def test_the_process_ends_with_its_parent():
    script = (
        "import os, signal\n"
        "from vocabridge.alignment.tokenizers import template_renderer as r\n"
        "r.render('', {}, [])\n"
        "print(r._RENDERER._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and _lives(int(done.stdout)):
        time.sleep(0.05)
    assert not _lives(int(done.stdout))


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
