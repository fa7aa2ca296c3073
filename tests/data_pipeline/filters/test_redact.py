import ast
import json
import re
import string
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.filters import redact as redaction
from data_pipeline.filters import secrets
from data_pipeline.filters.redact import BROKEN, KEY, NOTHING, Suspicion, redact, replacements, suspicions
from data_pipeline.text.parsers import PARSED, parses
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
ANTHROPIC = "sk-ant-" + "api03-" + "aB3_" * 23 + "xAA"
HUGGING_FACE = "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
GOOGLE = "AIza" + "Sy" + "D3x9fQ7" * 4 + "b1ck2"
STRIPE_TEST = "sk_test_" + "9aBcD3fGhIj5kLmN7pQrStUv"
BODY = "\n".join("MIIEpAIBAAKCAQEAzh7Q0fV5mYq" + letter * 30 for letter in "abc")
PRIVATE = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----"
TOKENS = (AWS, GITHUB, SLACK, STRIPE, TWILIO, DISCORD, JWT, ANTHROPIC, HUGGING_FACE)


@pytest.mark.parametrize("secret", TOKENS)
def test_a_token_is_replaced_wherever_it_stands(secret: str) -> None:
    text = f'import os\n\ntoken = "{secret}"  # and again {secret}\nother = 1\n'
    clean, counts = redact(text, "python", ALL)
    assert secret not in clean and KEY in clean and clean.startswith("import os\n\ntoken = ")
    assert clean.endswith("other = 1\n") and counts["secrets"] >= 2
    assert redact(text, "python", Redact(secrets=False))[0] == text


def test_a_private_key_loses_what_is_in_it() -> None:
    clean, counts = redact(f"key = '''{PRIVATE}'''\n", "python", ALL)
    assert clean == f"key = '''-----BEGIN RSA PRIVATE KEY-----\n{KEY}\n-----END RSA PRIVATE KEY-----'''\n"
    assert counts["secrets"] == 1


def test_a_private_key_in_strings_of_code_leaves_the_code() -> None:
    lines = "".join(f'    "{line}\\n"\n' for line in BODY.split("\n"))
    text = (
        f'static const char key[] =\n    "-----BEGIN PRIVATE KEY-----\\n"\n{lines}    "-----END PRIVATE KEY-----\\n";\n'
    )
    clean, counts = redact(text, "c", ALL)
    assert clean.count(f'    "{KEY}\\n"\n') == 3 and "MII" not in clean and counts["secrets"] == 1
    assert parses("c", clean)


# Real code that a looser pattern took for a key, and siblings.
MARKS = (
    'START = b"-----BEGIN OPENSSH PRIVATE KEY-----"\nEND = b"-----END OPENSSH PRIVATE KEY-----"\n',
    'if pem.startswith("-----BEGIN RSA PRIVATE KEY-----") and pem.endswith(\n    "-----END RSA PRIVATE KEY-----"):\n'
    "    pass\n",
    'pem = "-----BEGIN PRIVATE KEY-----\\n" + encode_the_body_of_this_key(data) + "\\n-----END PRIVATE KEY-----"\n',
    'MARK = "-----BEGIN EC PRIVATE KEY-----"\n\n\ndef strip_everything_that_is_no_base64(text):\n    return text\n\n\n'
    'LAST = "-----END EC PRIVATE KEY-----"\n',
)


@pytest.mark.parametrize("text", MARKS)
def test_code_between_the_marks_of_a_key_stays(text: str) -> None:
    assert redact(text, "python", ALL) == (text, Counter())


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail jane.roe+x@mail.corp.dev.", "mail <EMAIL>."),
        ("<jane@corp.dev>, mailto:joe@corp.dev", "<<EMAIL>>, mailto:<EMAIL>"),
        ("jane@example.com, jane@host.test, root@localhost", None),
        ("git clone git@github.com:a/b.git", None),
        ("http://user:pass@host.org/path", None),
        ("server at 151.101.1.69:80", "server at 192.0.2.1:80"),
        ("127.0.0.1, 10.1.2.3, 192.168.0.1, 192.0.2.7, 999.1.1.1", None),
        ("version 1.2.3.4 of 10.20.30.40.50", None),
        ("dns server 8.8.8.8", "dns server 192.0.2.1"),
        ("listen on [2a00:1450:4001:81b::200e]", "listen on [2001:db8::1]"),
        ("groups[2::2], fe80::1, ::1, 12:34:56, a::b", None),
    ],
)
def test_addresses_of_people_and_machines(text: str, clean: str | None) -> None:
    assert redact(text, "text", ALL)[0] == (text if clean is None else clean)
    assert redact(text, "text", Redact(emails=False, addresses=False, secrets=False))[0] == text


@pytest.mark.parametrize(
    "text",
    [
        # A product of matrices.
        "def f(x, self):\n    return x@self.weight + self.bias\n",
        "def f(a, b):\n    return a@b.co + b.at\n",
        "y = f'{x@w.T}' + str(x@w.real)\n",
        "total = sum(a@b.id for a, b in pairs)  # see below\n",
        # An object identifier.
        'oid = ObjectIdentifier("2.5.29.18")\n',
        'OIDS = {"1.3.6.1": "internet", "2.5.4.3": "common name"}\n',
        '# the dotted string "1.3.101.112"\n',
        "x509.ObjectIdentifier('1.2.3.4')\n",
        # A version.
        "pycurl==7.43.0.5\n",
        'requires = ["pyerfa>=2.0.1.1", "types-ujson ==5.7.0.1"]\n',
        "# Now depends on billiard 2.7.3.31.\n",
        'assert str(version("31.4.15.9"))\n',
        # The number of a section.
        "# see C standard 6.4.4.1\n",
        "# [RFC 5280 4.2.1.6]\n",
        "# sections 2.3.3.1, 3.5\n",
        "# 22.1.3.29 Array.prototype.values()\n",
        # A slice.
        "x = data[2000::10]\n",
        "x = data[2001:2009:2]\n",
        "x = f(a)[2024::2]\n",
        "x = data[0, 2000::10]\n",
        # Names of SSH.
        'kex = ["curve25519-sha256@libssh.org", "aes256-gcm@openssh.com"]\n',
        'mac = "hmac-sha2-256-etm@openssh.com"\n',
        'x = "rijndael-cbc@lysator.liu.se"\n',
        'x = "statvfs@openssh.com"\n',
        # Pictures, packages, actions.
        'src = "logo@2x.png"\n',
        'dep = "left-pad@1.3.0"\n',
        'uses = "actions/checkout@v4.1.7"\n',
        'x = "josé@localhost", r"jos\\xe9@blah.com"\n',
    ],
)
def test_what_only_looks_like_an_address_stays(text: str) -> None:
    assert redact(text, "python", ALL) == (text, Counter())


@pytest.mark.parametrize(
    ("text", "language", "secret"),
    [
        ("postgres://user:secret@host", "yaml", "secret"),
        ('create_engine("mysql+pymysql://root:hunter2@10.0.3.7/crm")', "python", "hunter2"),
        ("REDIS_URL=redis://:pR9xvv2@cache.corp.dev:6379/0", "shell", "pR9xvv2"),
        ('mongoose.connect("mongodb+srv://svc:Tr0ub4dor@c.mongodb.net/prod")', "javascript", "Tr0ub4dor"),
        (f'client = Anthropic(api_key="{ANTHROPIC}")', "python", ANTHROPIC),
        (f"token: {HUGGING_FACE}", "yaml", HUGGING_FACE),
        (
            f'const key = "{"AIza" + "Sy" + "D3x9fQ7" * 4 + "b1ck2"}";',
            "javascript",
            "AIza" + "Sy" + "D3x9fQ7" * 4 + "b1ck2",
        ),
        (
            f'Stripe.api_key = "{"sk_test_" + "9aBcD3fGhIj5kLmN7pQrStUv"}"',
            "ruby",
            "sk_test_" + "9aBcD3fGhIj5kLmN7pQrStUv",
        ),
        (f"square {'sq0csp-' + 'Ab3_' * 10 + 'xyz'}", "text", "sq0csp-" + "Ab3_" * 10 + "xyz"),
        ('password = "vT7#qLw9!zXc"', "python", "vT7#qLw9!zXc"),
        ('String apiKey = "9f2c4e81a07b3d56";', "java", "9f2c4e81a07b3d56"),
        ("smtp_password = Gk8s!wq20Zr", "ini", "Gk8s!wq20Zr"),
        ('{"client_secret": "Zq7nn2LkdW0pXy3T"}', "json", "Zq7nn2LkdW0pXy3T"),
    ],
)
def test_secrets_without_a_form_of_their_own(text: str, language: str, secret: str) -> None:
    clean, counts = redact(f"first\n{text}\nlast\n", language, ALL)
    assert secret not in clean and counts["secrets"] == 1
    assert clean == f"first\n{text.replace(secret, KEY)}\nlast\n"


@pytest.mark.parametrize(
    "text",
    [
        'password = "changeme"',
        "password = os.environ['PASSWORD']",
        'api_key = "YOUR_API_KEY_1"',
        'token_url = "https://auth.corp.dev/oauth2/token"',
        'SECRET_KEY = "django-insecure-1"',
        "postgres://user:${PASSWORD}@host/db",
        'f"postgres://{user}:{password}@{host}"',
        "amqp://guest:guest@localhost//",
        'token = "0123456789abcdef"',
        'sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
        'NextToken = "1w41l63U0xa8q7smH50vCxyTQqdxo69O3EmK28Bi5PcROI4wIEyIJg"',
    ],
)
def test_samples_templates_and_hashes_are_no_secrets(text: str) -> None:
    assert redact(text, "python", ALL) == (text, Counter())


def test_a_replacement_that_would_break_a_program_is_left_out_and_counted() -> None:
    # Markup inside JavaScript: the replacement would open an element.
    text = 'const a = <p>jane@corp.dev</p>;\nconst b = "joe@corp.dev";\n'
    assert parses("javascript", text)
    found = [
        redaction.Replacement(text.index(one), text.index(one) + 13 - (one == "joe@corp.dev"), "emails", "<EMAIL>")
        for one in ("jane@corp.dev", "joe@corp.dev")
    ]
    assert not parses("javascript", redaction._replaced(text, found))
    kept = redaction._harmless(text, "javascript", found)
    assert kept == found[1:]
    clean, counts = redact('{"a": 1, "key": ' + AWS + "}", "json", ALL)
    assert AWS not in clean and counts == {"secrets": 1}, "what did not parse before may change"


def test_many_harmful_replacements_are_given_up_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    monkeypatch.setattr(redaction, "_PARSES", 5)

    def parses(language: str, text: str) -> bool:
        nonlocal calls
        calls += 1
        return "<" not in text

    monkeypatch.setattr(redaction, "parses", parses)
    text = "x" * 200
    found = [redaction.Replacement(at, at + 1, "emails", "<EMAIL>") for at in range(0, 200, 2)]
    assert redaction._harmless(text, "c", found) == [] and calls <= 8


STATEMENTS = (
    "x = 1\n", "s = f'{x}'\n", 'd = {"k": "v"}\n', "# note\n", '"""doc"""\n', "y = '''a\n", "b'''\n", "z = x@y.at\n",
    "for a in b:\n    pass\n", "t = r'\\'\n", 'u = "\\""\n', "v = f\"{d['k']}\"\n",
)  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(STATEMENTS), st.sampled_from(
    [f"{before}{piece}{after}" for piece in ("jane@corp.dev", "http://151.101.1.69/", AWS, "a://b:b1c2d3@h", PRIVATE)
     for before, after in (("# ", "\n"), ("s = '''", "'''\n"), ('f"""', '"""\n'), ("x = ", "\n"), ("y = '", "'\n"))]
)), max_size=8).map("".join))  # fmt: skip
@settings(max_examples=100)
def test_what_parsed_before_parses_after(text: str) -> None:
    clean, _ = redact(text, "python", ALL)
    if parses("python", text):
        assert parses("python", clean)
        # As many tokens as before: what is proven without the parser is so.
        assert len(list(ast.walk(ast.parse(clean)))) == len(list(ast.walk(ast.parse(text))))


def test_redacting_twice_changes_nothing_more() -> None:
    text = "\n".join([PRIVATE, AWS, JWT, "jane@corp.dev", "http://151.101.1.69", "[2a00:1450:4001:81b::200e]"])
    once, counts = redact(text, "text", ALL)
    again, more = redact(once, "text", ALL)
    assert (again, sum(more.values()), sum(counts.values())) == (once, 0, 6)


PIECES = [
    *TOKENS,
    PRIVATE,
    "jane@corp.dev",
    "151.101.1.69:80",
    "2a00:1450:1:1::2",
    "a://b:c0deX9@d",
    'pwd="a1B2c3D4e5"',
]
PLAIN = st.text(alphabet=string.printable + "éß一\u2028\u0661\u017f\u212a", max_size=30)


def everywhere(text: str, language: str = "text") -> list[redaction.Replacement]:
    """What `replacements` is for: every rule on every line."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    return replacements(text, language, ALL, Suspicion(tuple(starts), tuple(starts), True))


@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from(PIECES), PLAIN), max_size=4).map("".join),
        max_size=6,
    ).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\n\n"]).map(lambda ending: ending.join(lines)))
)
def test_the_fast_search_misses_nothing(text: str) -> None:
    before, [suspicion], after = "x@y.zw\n" + text, suspicions([text]), text + AWS
    assert replacements(text, "text", ALL, suspicion) == everywhere(text)
    assert redact(text, "text", ALL, suspicion) == redact(text, "text", ALL)
    assert suspicions([before, text, after])[1] == suspicion


@pytest.mark.parametrize("local", ["jané", "j.ß", "j一"])
def test_an_address_may_end_in_any_letter_before_its_at(local: str) -> None:
    assert redact(f"mail {local}@corp.dev", "text", ALL)[0] == "mail <EMAIL>"


FORMS = (*secrets.PATTERNS, *map(re.compile, secrets.TOKENS.split("|")[:1]), re.compile(secrets.URL), secrets._QUOTED)


@pytest.mark.parametrize("detector", FORMS, ids=lambda pattern: pattern.pattern[:20])
def test_whatever_a_detector_finds_is_suspected(detector: re.Pattern[str]) -> None:
    @settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], max_examples=20)
    @given(st.from_regex(detector, alphabet=st.characters(exclude_categories=["Cs"])))
    def check(text: str) -> None:
        assert replacements(text, "text", ALL, *suspicions([text])) == everywhere(text)

    check()


def test_ordinary_code_raises_no_suspicion() -> None:
    assert suspicions(["def f(a, b):\n    return a + b  # see clause 3.2.1\n"]) == [NOTHING]


MARK = re.compile(r"⟦(\w+)\|(.*?)⟧", re.DOTALL)
KINDS = {"email": "emails", "address": "addresses", "secret": "secrets", "none": ""}


def labelled() -> list[tuple[str, str, list[tuple[int, int, str]]]]:
    """Text, language, and the labelled places of each line of the set. Secrets are made up, and cut by a mark."""
    rows = []
    for line in (Path(__file__).parent / "labelled_places.jsonl").read_text("utf-8").splitlines():
        row, text, places, done = json.loads(line), "", [], 0
        marked = row["text"].replace("¦", "")
        for match in MARK.finditer(marked):
            text += marked[done : match.start()]
            places.append((len(text), len(text) + len(match[2]), KINDS[match[1]]))
            text += match[2]
            done = match.end()
        rows.append((text + marked[done:], row["language"], places))
    return rows


def judged(find) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Precision and recall of what `find(text, language, suspicion)` gives, (start, stop, kind) of each replacement."""
    right = wrong = missed = 0
    rows = labelled()
    for (text, language, places), suspicion in zip(rows, suspicions([row[0] for row in rows]), strict=True):
        found = find(text, language, suspicion)
        for start, stop, kind in places:
            covered = sum(max(0, min(stop, last) - max(start, first)) for first, last, own in found if own == kind)
            # Of a key in several lines, the line ends between them stay.
            right += bool(kind) and covered >= 0.85 * (stop - start)
            missed += bool(kind) and covered < 0.85 * (stop - start)
        wrong += sum(
            not any(own == kind and start < last and first < stop for start, stop, kind in places)
            for first, last, own in found
        )
    return right / (right + wrong), right / (right + missed)


def test_precision_and_recall_on_the_labelled_places() -> None:
    places = [place for _, _, found in labelled() for place in found]
    assert len(places) >= 400 and sum(bool(kind) for *_, kind in places) >= 150

    def ours(text: str, language: str, suspicion: Suspicion) -> list[tuple[int, int, str]]:
        found = replacements(text, language, ALL, suspicion)
        return [(each.start, each.stop, each.kind) for each in found]

    def careless(text: str, language: str, suspicion: Suspicion) -> list[tuple[int, int, str]]:
        mails = [(*match.span(), "emails") for match in re.finditer(r"[\w.+-]+@[\w.-]+\.\w+", text)]
        return mails + [(*match.span(), "addresses") for match in re.finditer(r"\d+\.\d+\.\d+\.\d+", text)]

    precision, recall = judged(ours)
    assert precision >= 0.95 and recall >= 0.95
    # The control: the measure tells a bad detector.
    assert max(judged(careless)) < 0.7


def test_the_languages_with_a_parser_are_known() -> None:
    assert PARSED == ("c", "cpp", "go", "java", "javascript", "json", "python", "rust", "toml")
    assert parses("markdown", "# x") is None and BROKEN.startswith("left alone")
