import re
import string
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.filters import redact as redaction
from data_pipeline.filters.redact import KEY, NOTHING, redact, suspicions
from specs.schema.filters import Redact

ALL = Redact()
# Put together here, so that no scanner takes this file for a leak.
AWS = "AKIA" + "Q3EGRJ6TYWUXLNPZ"
GITHUB = "ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"[:36]
SLACK = "xoxb-" + "2314578923-9871236540-kjhsdfGHJ87as".lower()
STRIPE = "sk_live_" + "9aBcD3fGhIj5kLmN7pQrStUv"
TWILIO = "SK" + "9f86d081884c7d659a2feaa0c55ad015"
DISCORD = "MTk4NjIyNDgzNDcxOTI1MjQ4" + ".Cl2FMQ." + "ZnCjm1XVW7vRze4b7Cq4se7kKWs"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
BODY = "\n".join("MIIEpAIBAAKCAQEAzh7Q0fV5mYq" + letter * 30 for letter in "abc")
PRIVATE = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize("secret", [AWS, GITHUB, SLACK, STRIPE, TWILIO, DISCORD, JWT])
def test_a_token_is_replaced_wherever_it_stands(secret: str) -> None:
    text = f'import os\n\ntoken = "{secret}"  # and again {secret}\nother = 1\n'
    clean, counts = redact(text, ALL)
    assert secret not in clean and KEY in clean and clean.startswith("import os\n\ntoken = ")
    assert clean.endswith("other = 1\n") and counts["secrets"] >= 2
    assert redact(text, Redact(secrets=False))[0] == text


def test_a_private_key_loses_what_is_in_it() -> None:
    clean, counts = redact(f"key = '''{PRIVATE}'''\n", ALL)
    assert clean == f"key = '''-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----'''\n"
    assert counts["secrets"] == 1


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail jane.roe+x@mail.corp.dev.", "mail <EMAIL>."),
        ("<jane@corp.dev>, mailto:joe@corp.dev", "<<EMAIL>>, mailto:<EMAIL>"),
        ("jane@example.com, jane@host.test, root@localhost", None),
        ("git clone git@github.com:a/b.git", None),
        ("http://user:pass@host.org/path", None),
        ("y = a@b.transpose(0)  # @decorator.name", None),
        ("server at 151.101.1.69:80", "server at 192.0.2.1:80"),
        ("127.0.0.1, 10.1.2.3, 192.168.0.1, 192.0.2.7, 999.1.1.1", None),
        ("version 1.2.3.4 of 10.20.30.40.50", None),
        ("dns server 8.8.8.8", "dns server 192.0.2.1"),
        ("listen on [2a00:1450:4001:81b::200e]", "listen on [2001:db8::1]"),
        ("groups[2::2], fe80::1, ::1, 12:34:56, a::b", None),
    ],
)
def test_addresses_of_people_and_machines(text: str, clean: str | None) -> None:
    assert redact(text, ALL)[0] == (text if clean is None else clean)
    assert redact(text, Redact(emails=False, addresses=False, secrets=False))[0] == text


def test_redacting_twice_changes_nothing_more() -> None:
    text = "\n".join([PRIVATE, AWS, JWT, "jane@corp.dev", "151.101.1.69", "2a00:1450:4001:81b::200e"])
    once, counts = redact(text, ALL)
    again, more = redact(once, ALL)
    assert (again, sum(more.values()), sum(counts.values())) == (once, 0, 6)


PIECES = [AWS, GITHUB, SLACK, STRIPE, TWILIO, DISCORD, JWT, PRIVATE, "jane@corp.dev", "151.101.1.69", "2a00:1450::2"]


PLAIN = st.text(alphabet=string.printable + "éß一\u2028\u0661\u017f\u212a", max_size=30)


def everywhere(text: str) -> tuple[str, Counter[str]]:
    """What `redact` is for: every rule on every line."""
    counts: Counter[str] = Counter()
    text, counts["secrets"] = redaction._PRIVATE_KEY.subn(rf"\1\n{KEY}\n\2", text)
    lines = [redaction._without_secrets(line, counts) for line in text.split("\n")]
    return "\n".join([redaction._personal(line, ALL, counts) for line in lines]), counts


@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from(PIECES), PLAIN), max_size=4).map("".join),
        max_size=6,
    ).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\n\n"]).map(lambda ending: ending.join(lines)))
)
def test_the_fast_search_misses_nothing(text: str) -> None:
    before, [suspicion], after = "x@y.zw\n" + text, suspicions([text]), text + AWS
    assert redact(text, ALL, suspicion) == redact(text, ALL) == everywhere(text)
    assert suspicions([before, text, after])[1] == suspicion


@pytest.mark.parametrize("local", ["jané", "j.ß", "j一"])
def test_an_address_may_end_in_any_letter_before_its_at(local: str) -> None:
    assert redact(f"mail {local}@corp.dev", ALL)[0] == "mail <EMAIL>"


@pytest.mark.parametrize("detector", redaction._PATTERNS, ids=lambda pattern: pattern.pattern[:20])
def test_whatever_a_detector_finds_is_suspected(detector: re.Pattern[str]) -> None:
    @settings(suppress_health_check=[HealthCheck.filter_too_much], max_examples=20)
    @given(st.from_regex(detector, alphabet=st.characters(exclude_categories=["Cs"])))
    def check(text: str) -> None:
        assert redact(text, ALL) == everywhere(text)

    check()


def test_ordinary_code_raises_no_suspicion() -> None:
    assert suspicions(["def f(a, b):\n    return a + b  # see clause 3.2.1\n"]) == [NOTHING]
