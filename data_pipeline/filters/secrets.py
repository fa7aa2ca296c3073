"""Secrets in a line of text: tokens of a known form, passwords in addresses, and values assigned to a secret's name.

Forms of tokens are those of detect-secrets and, for services that it does not know, those that the services publish.
A value assigned to a name such as `password` counts only where it looks drawn at random: in code, most are samples.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator

from detect_secrets.filters.heuristic import is_potential_uuid, is_sequential_string, is_templated_secret
from detect_secrets.plugins.artifactory import ArtifactoryDetector
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.cloudant import CloudantDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.mailchimp import MailchimpDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.softlayer import SoftlayerDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.telegram_token import TelegramBotTokenDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from data_pipeline.filters.domains import RESERVED

Extent = tuple[int, int]
"""Where something begins in a text, and where it ends."""

_DETECTORS = (
    *(ArtifactoryDetector, AWSKeyDetector, AzureStorageKeyDetector, CloudantDetector, DiscordBotTokenDetector),
    *(GitHubTokenDetector, GitLabTokenDetector, JwtTokenDetector, MailchimpDetector, NpmDetector, OpenAIDetector),
    *(PypiTokenDetector, SendGridDetector, SlackDetector, SoftlayerDetector, SquareOAuthDetector, StripeDetector),
    *(TelegramBotTokenDetector, TwilioKeyDetector),
)
PATTERNS: tuple[re.Pattern[str], ...] = tuple(pattern for each in _DETECTORS for pattern in each().denylist)
"""Of detect-secrets; a group may be the secret with its name left out, or only a part of it."""
_HARMLESS = (is_potential_uuid, is_sequential_string, is_templated_secret)
_SHORTEST_SECRET = 16

# Only what RE2 reads too, for the search through many texts at once.
TOKENS = "|".join(
    (
        # With its signature, which the pattern of detect-secrets leaves.
        r"eyJ[A-Za-z0-9_=-]{8,2000}\.eyJ[A-Za-z0-9_=-]{8,4000}\.[A-Za-z0-9_=-]{10,1000}",
        # Language models: Anthropic, OpenAI, OpenRouter, Hugging Face, Groq, Replicate, xAI, Perplexity.
        r"sk-ant-[a-z]{3,5}[0-9]{2}-[A-Za-z0-9_-]{80,120}",
        r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{40,200}",
        r"sk-or-v1-[0-9a-f]{64}",
        r"hf_[A-Za-z0-9]{34,40}",
        r"gsk_[A-Za-z0-9]{48,60}",
        r"r8_[A-Za-z0-9]{36,40}",
        r"xai-[A-Za-z0-9]{70,90}",
        r"pplx-[A-Za-z0-9]{40,60}",
        # Clouds: Google, DigitalOcean, Databricks, Alibaba, Heroku, Supabase, PlanetScale.
        r"AIza[0-9A-Za-z_-]{35}",
        r"GOCSPX-[0-9A-Za-z_-]{28}",
        r"ya29\.[0-9A-Za-z_-]{40,250}",
        r"do[or]_v1_[0-9a-f]{64}",
        r"dop_v1_[0-9a-f]{64}",
        r"dapi[0-9a-f]{32}",
        r"LTAI[A-Za-z0-9]{17,21}",
        r"HRKU-[0-9A-Za-z_-]{36,60}",
        r"sbp_[0-9a-f]{40}",
        r"pscale_(?:tkn|oauth|pw)_[0-9A-Za-z_.=-]{32,64}",
        # Payment: Stripe, Square, Shopify, Braintree.
        r"[sr]k_(?:live|test)_[0-9A-Za-z]{20,110}",
        r"whsec_[A-Za-z0-9+/]{32,64}",
        r"sq0(?:atp|csp|idp)-[0-9A-Za-z_-]{22,43}",
        r"EAAA[0-9A-Za-z_-]{56,64}",
        r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
        r"access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}",
        # Code, messages, operation: GitHub, npm, Slack, Discord, Mailgun, New Relic, Vault, Grafana, Linear, Postman,
        # Notion, Sentry, Doppler.
        r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
        r"npm_[A-Za-z0-9]{36}",
        r"https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/]{40,80}",
        r"https://discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[0-9A-Za-z_-]{60,70}",
        r"key-[0-9a-f]{32}",
        r"NRAK-[A-Z0-9]{27}",
        r"hv[sb]\.[0-9A-Za-z_-]{80,130}",
        r"glsa_[0-9A-Za-z]{32}_[0-9a-f]{8}",
        r"lin_api_[0-9A-Za-z]{40}",
        r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}",
        r"ntn_[0-9A-Za-z]{44,48}",
        r"sntry[su]_[0-9A-Za-z_=+/-]{60,200}",
        r"dp\.(?:pt|st|ct|sa)\.[0-9A-Za-z]{40,44}",
    )
)
"""Forms of tokens that detect-secrets does not know."""
_TOKENS = re.compile(rf"(?<![A-Za-z0-9])(?:{TOKENS})(?![A-Za-z0-9])", re.ASCII)

URL = r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s:/@\"'<>\[\]{}]{0,100}:[^\s/@\"'<>`]{3,200}@"
"""A password in an address, as `postgres://user:password@host`; for RE2 too."""
_URL = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]{0,30}://(?P<user>[^\s:/@\"'<>\[\]{}]{0,100}):(?P<password>[^\s/@\"'<>`]{3,200})"
    r"@(?P<host>[^\s:/@\"'<>`?\#]*)"
)
_SAMPLE_PASSWORDS = re.compile(r"p(?:ass)?(?:w(?:or)?d)?|pwd|tiger|guest|foo|bar|baz|key|x-oauth-basic|\W+|x+", re.I)

_NAME = (
    r"(?:pass(?:word|wd|phrase)|[_-]pass|pwd|secret(?:_?key)?(?:_?base)?|token|(?:api|access|auth|private|account"
    r"|signing)[_-]?key(?:[_-]?id)?|credentials?)s?"
)
# In code a type may stand between, as in `token: str = "..."`.
_SET = r"(?:[\"'\])]{0,3}[ \t]{0,4}(?::[ \t]?[A-Za-z]\w{0,11}[ \t]?)?(?::=|=>|[=:]|[ \t])|[\"'],)[ \t]{0,4}"
ASSIGNED = rf"(?i:{_NAME}){_SET}[bruBRU]{{0,2}}[\"'`]?[^\s\"'`\\]{{0,200}}[0-9][^\s\"'`\\]{{0,200}}"
"""A value with a digit after a secret's name; for RE2 too."""
_QUOTED = re.compile(
    rf"(?P<before>\w{{0,20}})(?P<name>(?i:{_NAME})){_SET}[bruBRU]{{0,2}}(?P<quote>[\"'`])(?P<value>[^\s\"'`\\]{{8,200}})(?P=quote)"
)
_BARE = re.compile(
    rf"\s{{0,40}}(?:(?:export|set|ENV)\s+)?(?P<before>[-\w.]{{0,60}})(?P<name>(?i:{_NAME}))\s{{0,4}}[:=]\s{{0,4}}"
    r"(?P<value>[^\s\"'`\\]{8,200})\s*"
)
_BARE_LANGUAGES = frozenset(("ini", "yaml", "shell", "text", "markdown", "restructuredtext", "dotenv", "properties"))
# Marks of pages, words of vocabularies, public keys and hashes have such names too.
_NO_SECRET = re.compile(
    r"(?:next|continuation|idempotency|client|page|pagination|input|output|public_?key)[_-]?tokens?|.*hash.*", re.I
)
_SAMPLE_WORDS = re.compile(
    r"example|sample|change.?me|your[_-]|dummy|fake|placeholder|test|demo|foobar|insecure|password|passwd|secret|todo"
    r"|xxxx|\*\*\*|\.\.\.|abcd|1234",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"\$[A-Z{(_]|\{|<|%[(sd]|\[|\(|\$2[aby]\$")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z_.-]*[0-9]{0,4}")


def secrets(line: str, language: str) -> Iterator[Extent]:
    """Where the secrets of a line are; extents may overlap."""
    for match in _TOKENS.finditer(line):
        if not _is_sample(match[0]):
            yield match.span()
    for value in _known_tokens(line):
        for start in _occurrences(line, value):
            # Within a longer run of letters it is a part of encoded data, unless they are an escape's.
            if not line[start - 1 : start].isalnum() or line[start - 2 : start - 1] == "\\" or not start:
                yield start, start + len(value)
    for match in _URL.finditer(line):
        if _is_password(match["user"], match["password"], match["host"]):
            yield match.span("password")
    bare = _BARE.fullmatch(line) if language in _BARE_LANGUAGES else None
    for match in (*_QUOTED.finditer(line), *([] if bare is None else [bare])):
        if not _NO_SECRET.fullmatch(match["before"] + match["name"]) and looks_random(match["value"]):
            yield match.span("value")


def looks_random(value: str) -> bool:
    """Whether a value looks drawn at random: letters and digits in turn, few of them twice, no word of samples.

    At least 3 bits of entropy for each character, as the characters of the value are distributed, and a change between
    lower case, upper case, digits and others after 30% of the characters; text has a change after some 5 to 20%.
    """
    if _TEMPLATE.search(value) or _SAMPLE_WORDS.search(value) or _IDENTIFIER.fullmatch(value):
        return False
    if "://" in value or value.startswith(("/", "./", "-")):
        return False
    classes = [_character_class(character) for character in value]
    kinds = set(classes)
    if 2 not in kinds or not kinds & {0, 1} or (len(value) < 16 and len(kinds) < 3):
        return False
    counts = Counter(value).values()
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    changes = sum(one != other for one, other in itertools.pairwise(classes))
    harmless = is_potential_uuid(value) or is_sequential_string(value)
    return entropy >= 3.0 and changes >= 0.3 * (len(value) - 1) and not harmless


def _character_class(character: str) -> int:
    if character.isdigit():
        return 2
    return int(character.isupper()) if character.isalpha() else 3


def _is_sample(value: str) -> bool:
    return "EXAMPLE" in value.upper() or len(set(value)) < 6 or any(harmless(value) for harmless in _HARMLESS)


def _is_password(user: str, password: str, host: str) -> bool:
    if _TEMPLATE.search(password) or _SAMPLE_PASSWORDS.fullmatch(password) or user in (password, "anonymous"):
        return False
    return looks_random(password) or not RESERVED.fullmatch(host)


def _known_tokens(line: str) -> list[str]:
    # Longest first: one secret may lie inside another.
    matches = (match for pattern in PATTERNS for match in pattern.finditer(line))
    values = {max((match[0], *filter(None, match.groups()[:1])), key=_secret_first) for match in matches}
    return sorted((value for value in values if not _is_sample(value)), key=lambda value: (-len(value), value))


def _secret_first(value: str) -> tuple[bool, int]:
    """Sorts the shortest value last that is long enough to be a secret."""
    return len(value) >= _SHORTEST_SECRET, -len(value)


def _occurrences(line: str, value: str) -> Iterator[int]:
    start = line.find(value)
    while start >= 0:
        yield start
        start = line.find(value, start + len(value))


_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?P<between>(?:[^-]|-(?!----)){20,20000}+)"
    r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY"
)
_BASE64 = re.compile(
    r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{16,}={0,2}(?![A-Za-z0-9+/=])(?:(?:\r?\n)[ \t]*[A-Za-z0-9+/]{4,}={0,2}(?=\s))*+"
)
# Between the marks stand, beside the body, its headers (RFC 1421, RFC 4880), and what makes a string of each line.
_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset)[^\n]*?(?=\\n|\n|[\"'])")
_AROUND = re.compile(r"\\[nr]|[\s\"'+(),;#*\\rb=&.]")
_LEAST_BODY = 40


def key_bodies(text: str) -> Iterator[list[Extent]]:
    """Of each private key, where the lines of its base64 body are: code between two marks is no key."""
    for block in _KEY_BLOCK.finditer(text):
        start = block.start("between")
        between = _HEADER.sub(lambda match: " " * len(match[0]), block["between"])
        # An escaped line end is two characters, of which the second is a letter.
        between = re.sub(r"\\[nr]", "  ", between)
        body = [match.span() for match in _BASE64.finditer(between)]
        length = sum(last - first for first, last in body)
        if length >= _LEAST_BODY and length >= 0.9 * len(_AROUND.sub("", between)):
            yield [(start + first, start + last) for first, last in body]
