"""Kernel command lines: the kernel's own way of reading them, and what a host may not slip past the rules."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kbs_rim.appraisal.bootargs import BootargsRules, judge_bootargs, matches_pattern, parse_command_line


def parsed(text):
    line = parse_command_line(text)
    return [str(parameter) for parameter in line.parameters], None if line.init is None else [str(item) for item in line.init]


def objections(text, **rules):
    return [objection.message for objection in judge_bootargs(text, BootargsRules(**rules))]


# next_arg of Linux 6.1 lib/cmdline.c, written down again in the way of C: an index into a buffer, NULs put in place --------------


def next_arg(buffer, at):
    """Return (name, value or None, where to go on); cuts ``buffer`` as the kernel does."""
    equals, in_quote, quoted = 0, False, False
    if buffer[at] == ord('"'):
        at += 1
        in_quote = quoted = True
    i = 0
    while buffer[at + i]:
        if buffer[at + i] == ord(" ") and not in_quote:
            break
        if equals == 0 and buffer[at + i] == ord("="):
            equals = i
        if buffer[at + i] == ord('"'):
            in_quote = not in_quote
        i += 1
    end_of_string = buffer[at + i] == 0
    value = None
    if equals:
        buffer[at + equals] = 0
        value = at + equals + 1
        if buffer[value] == ord('"'):
            value += 1
            if buffer[at + i - 1] == ord('"'):
                buffer[at + i - 1] = 0
    if quoted and i > 0 and buffer[at + i - 1] == ord('"'):
        buffer[at + i - 1] = 0
    buffer[at + i] = 0
    go_on = at + i + (0 if end_of_string else 1)
    while buffer[go_on] == ord(" "):
        go_on += 1
    return c_string(buffer, at), None if value is None else c_string(buffer, value), go_on


def c_string(buffer, at):
    return bytes(buffer[at : buffer.index(0, at)]).decode()


def kernel_reads(text):
    buffer = bytearray(text.encode() + bytes(4))
    at = len(text) - len(text.lstrip(" "))
    parameters = []
    while buffer[at]:
        name, value, at = next_arg(buffer, at)
        if value is None and name == "--":
            return parameters, kernel_reads(bytes(buffer[at:]).split(b"\0")[0].decode())[0]
        parameters.append((name, value))
    return parameters, None


@given(st.text(alphabet=' "=-_ax', max_size=24))
def test_the_reading_is_linuxs(text):
    if text.count('"') % 2:
        with pytest.raises(ValueError, match="partner"):
            parse_command_line(text)
        return
    parameters, init = kernel_reads(text)
    line = parse_command_line(text)
    assert [(item.name, item.value) for item in line.parameters] == parameters
    assert (line.init is None) == (init is None)


@pytest.mark.parametrize(
    ("text", "parameters", "init"),
    [
        ("", [], None),
        ("  console=hvc0  root=/dev/vda rw ", ["console=hvc0", "root=/dev/vda", "rw"], None),
        ('dyndbg="file a.c +p" quiet', ["dyndbg=file a.c +p", "quiet"], None),
        ('"quoted name=a b" c', ["quoted name=a b", "c"], None),
        ("a=b=c", ["a=b=c"], None),
        ("=x", ["=x"], None),
        ("a -- b c=d", ["a"], ["b", "c=d"]),
        ('a "--" b', ["a"], ["b"]),
        ("a --x", ["a", "--x"], None),
        ('x="" y', ["x=", "y"], None),
    ],
)
def test_examples(text, parameters, init):
    assert parsed(text) == (parameters, init)


@pytest.mark.parametrize("text", ["a\tb", "a\nb", "ä", "a\u00a0init=/bin/sh", "a\x7f", "\x00"])
def test_attack_separators_that_only_some_readers_know(text):
    with pytest.raises(ValueError, match="printable ASCII"):
        parse_command_line(text)
    assert objections(text, allowed=["*"]) == ["the boot arguments are not printable ASCII: readers disagree on what separates them"]


def test_without_rules_there_may_be_no_arguments():
    assert objections("") == []
    assert objections("quiet") == ["the boot arguments are others than the workload says"]


def test_exact_is_the_whole_text():
    assert objections("console=ttyAMA0 quiet", exact=["x", "console=ttyAMA0 quiet"]) == []
    for text in ("", "console=ttyAMA0  quiet", "console=ttyAMA0 quiet ", "console=ttyAMA0 quiet init=/bin/sh"):
        assert objections(text, exact=["console=ttyAMA0 quiet"]), text


def test_attack_more_than_the_kernel_reads():
    """Linux cuts at 2048 bytes: what is required may be behind the cut."""
    text = "a" * 2040 + " lockdown=integrity"
    assert "the kernel would cut the boot arguments" in objections(text, required=["lockdown=integrity"], allowed=["a*"])
    assert objections("a" * 2047, allowed=["a*"]) == []


def test_default_is_deny():
    rules = {"required": ["ro"], "allowed": ["console=*", "quiet"]}
    assert objections("ro console=ttyAMA0 quiet", **rules) == []
    assert objections("console=ttyAMA0", **rules) == ["the boot parameter ro is missing"]
    assert objections("ro debug", **rules) == ["the boot parameter 'debug' is not allowed"]
    assert objections("ro quiet=1", **rules) == ["the boot parameter 'quiet' is not allowed"]


def test_attack_second_value_for_a_required_parameter():
    """The last one wins in the kernel."""
    rules = {"required": ["root=/dev/vda"], "allowed": ["root=*", "quiet"]}
    assert objections("root=/dev/vda quiet", **rules) == []
    for text in ("root=/dev/vda root=/dev/vdb", "root=/dev/vdb root=/dev/vda", "root=/dev/vda root"):
        assert objections(text, **rules) == ["'root' has another value than is required"]
    assert objections("ima-policy=tcb ima_policy=none", required=["ima_policy=tcb"], allowed=["ima-policy=*"])


def test_attack_forbidden_parameter_spelled_otherwise():
    rules = {"allowed": ["*"], "forbidden": ["init", "rd.break", "systemd.unit=rescue*", "no_kaslr"]}
    assert objections("quiet init_on_alloc=1", **rules) == []
    for text in ("init=/bin/sh", '"init=/bin/sh"', "rd.break", "rd.break=pre-mount", "systemd.unit=rescue.target", "no-kaslr"):
        assert any("forbidden" in message for message in objections(text, **rules)), text


@pytest.mark.parametrize("text", ['x="a init=/bin/sh b"', 'in"it=/bin/sh"', "quiet -- init=/bin/sh", 'x="" "init=/bin/sh"'])
def test_attack_parameter_hidden_from_the_kernels_reading(text):
    """User space reads /proc/cmdline with other rules for quotes, and does not stop at two dashes."""
    messages = objections(text, allowed=["*", "x=a init=/bin/sh b", 'in"it=/bin/sh"', "--"], forbidden=["init"])
    assert any("forbidden" in message for message in messages)


def test_attack_blanks_inside_a_free_value():
    assert objections('x="a init=/bin/sh"', allowed=["x=*"]) == ["the boot parameter 'x' is not allowed"]
    assert objections('x="a b"', allowed=["x=a b"]) == []


def test_attack_arguments_for_init():
    assert objections("quiet -- single", allowed=["quiet", "single"]) == ["arguments for init (behind --) are not allowed"]
    assert objections("quiet -- single", allowed=["quiet", "single", "--"]) == []
    assert objections("quiet -- emergency", allowed=["quiet", "single", "--"]) == ["the argument 'emergency' for init is not allowed"]
    assert objections("quiet -- ro", required=["ro"], allowed=["quiet", "--", "ro"]) == ["the boot parameter ro is missing"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"exact": ["a"], "allowed": ["b"]}, "exact says everything"),
        ({"forbidden": ["init"]}, "forbidden only takes away"),
        ({"allowed": ["a*b*c*d*"]}, "at most 3 stars"),
        ({"required": ["root=*"]}, "without stars"),
        ({"allowed": [""]}, "at least 1 character"),
        ({"alowed": ["a"]}, "Extra inputs"),
    ],
)
def test_rules_that_would_not_do_what_they_seem_to(rules, message):
    with pytest.raises(ValidationError, match=message):
        BootargsRules(**rules)


def test_what_is_shown_is_ascii_and_short():
    for objection in judge_bootargs("ü" * 1000 + "\x1b[31m", BootargsRules()):
        assert objection.seen.isascii()
        assert objection.seen.isprintable()
        assert len(objection.seen) < 1800


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_every_objection_says_what_was_seen(text):
    found = list(judge_bootargs(text, BootargsRules(required=["a=b"], allowed=["x=*"], forbidden=["x=y"])))
    assert all(objection.seen.isascii() and objection.seen for objection in found)
    assert found or "a=b" in text


# Patterns --------------------------------------------------------------------------------------------------------------------------


@given(st.text("ab:*", min_size=1, max_size=8).filter(lambda pattern: pattern.count("*") <= 3), st.text('ab: "', max_size=12))
def test_a_star_stands_for_what_the_regular_expression_says(pattern, text):
    expression = r'[^\s"]*'.join(re.escape(part) for part in pattern.split("*"))
    assert matches_pattern(pattern, text) == (re.fullmatch(expression, text) is not None)


@pytest.mark.parametrize("pattern", ["ip=*:*:*", "ip=*b*c*d", "*:*:*x", "ip=***"])
def test_attack_a_text_that_makes_matching_slow(pattern):
    """As a regular expression this takes 20 seconds."""
    text = "ip=" + ":" * 2000 + '"x"'
    start = time.process_time()
    assert objections(text, allowed=[pattern]) == ["the boot parameter 'ip' is not allowed"]
    assert time.process_time() - start < 1


def test_attack_a_megabyte_of_parameters_is_not_judged_one_by_one():
    start = time.process_time()
    assert objections("a " * 500_000, allowed=["b*"] * 200, forbidden=["c*"] * 200) == ["the kernel would cut the boot arguments"]
    assert time.process_time() - start < 1
