"""Redaction: secrets, e-mail addresses and public network addresses give way to fixed replacements, and are counted.

Replacements as in StarCoder (Li et al., 2023, 4): `<KEY>` and `<EMAIL>`; network addresses become ones that nobody
owns, those reserved for documentation (RFC 5737, RFC 3849), so that code stays code. Secrets are what the token
detectors of detect-secrets find, and private keys as a whole. Its guesses by entropy and by keyword are not used: in
code they mark hashes and examples far more often than secrets.
"""

import functools
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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

from data_pipeline.documents.documents import Message, parse_conversation, render_conversation
from specs.schema.filters import Redact

KEY, EMAIL = "<KEY>", "<EMAIL>"
IPV4, IPV6 = "192.0.2.1", "2001:db8::1"

_DETECTORS = (
    *(ArtifactoryDetector, AWSKeyDetector, AzureStorageKeyDetector, CloudantDetector, DiscordBotTokenDetector),
    *(GitHubTokenDetector, GitLabTokenDetector, JwtTokenDetector, MailchimpDetector, NpmDetector, OpenAIDetector),
    *(PypiTokenDetector, SendGridDetector, SlackDetector, SoftlayerDetector, SquareOAuthDetector, StripeDetector),
    *(TelegramBotTokenDetector, TwilioKeyDetector),
)
_PATTERNS: tuple[re.Pattern[str], ...] = tuple(pattern for each in _DETECTORS for pattern in each().denylist)
_HARMLESS = (is_potential_uuid, is_sequential_string, is_templated_secret)
_SHORTEST_SECRET = 16
# What a line holds where a detector finds something, for RE2, which is many times as fast as Python's; loose. Python's
# digits are not only those of ASCII.
_MORE = r"\x{80}-\x{10ffff}"
_SECRET = (
    rf"AKC[a-zA-Z0-9]|AP[0-9A-F{_MORE}][a-zA-Z0-9]{{8}}|A(?:3T[A-Z0-9]|[BCKS][CI]A)[0-9A-Z]{{16}}|"
    r"(?i:aws[^\n]*[\"'][0-9a-z/+]{40}[\"'])|AccountKey=|"
    r"(?i:cl(?:ou|oudant)?[_-]?(?:api)?(?:key|pw|pass|token)|cloudant\.com)|"
    r"gh[opusr]_[A-Za-z0-9]|gl[a-z]{2,6}-[A-Za-z0-9_-]{20}|GR1348941|eyJ[A-Za-z0-9_=-]+\.|-us[0-9]|:_authToken|"
    r"T3BlbkFJ|pypi-AgE|SG\.[a-zA-Z0-9_-]{22}|(?i:xox[abposr]-|hooks\.slack\.com)|"
    r"(?i:sl[_-]?(?:api)?[_-]?(?:key|pwd|pass|token)|softlayer)|sq0csp-|k_live_|"
    rf"[0-9{_MORE}]{{8}}:[0-9A-Za-z_-]{{8}}|(?:AC|SK)[a-z0-9]{{32}}|"
    rf"\.[a-zA-Z0-9_{_MORE}-]{{6}}\.[a-zA-Z0-9_{_MORE}-]{{27}}"
)
_PERSONAL = (
    r"(?:[A-Za-z0-9_%+.-]|[^\x00-\x7f])@[A-Za-z0-9][A-Za-z0-9-]*\.[A-Za-z0-9]|"
    r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[23][0-9a-fA-F]{3}:[0-9a-fA-F]{0,4}:"
)
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----)"
    r"(?:[^-]|-(?!----)){20,20000}+(-----END [A-Z0-9 ]{0,30}PRIVATE KEY)"
)
_EMAIL = re.compile(
    r"(?<![\w.+%@/-])(?P<local>[A-Za-z0-9][\w.+%-]{0,63})@(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}"
    r"[A-Za-z]{2,24})(?![\w@(\[-])"
)
_RESERVED = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost|local)", re.IGNORECASE)
"""Domains that belong to nobody (RFC 2606)."""
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
# Of IPv6, only 2000::/3 has been given out.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:])")


@dataclass(frozen=True)
class Suspicion:
    """Where a text may hold what is redacted: begins of lines, ascending; in other lines there is none."""

    secrets: tuple[int, ...] = ()
    personal: tuple[int, ...] = ()
    """E-mail or network addresses."""
    private_key: bool = False


NOTHING = Suspicion()


def suspicions(texts: Sequence[str]) -> list[Suspicion]:
    """Where each of many texts may hold what is redacted, much faster than looking for it in one after the other."""
    array = pa.array(texts, pa.large_string())
    places = np.flatnonzero(pc.match_substring_regex(array, pattern=f"PRIVATE KEY|{_SECRET}|{_PERSONAL}"))
    chosen = [texts[place] for place in places.tolist()]
    found = [NOTHING] * len(texts)
    keys = ("PRIVATE KEY" in text for text in chosen)
    lines = (_lines(chosen, pattern) for pattern in (_SECRET, _PERSONAL))
    for place, suspicion in zip(places.tolist(), map(Suspicion, *lines, keys), strict=True):
        found[place] = suspicion
    return found


def redact(text: str, section: Redact, suspicion: Suspicion | None = None) -> tuple[str, Counter[str]]:
    """The text with everything redacted that the section asks for, and how much of each kind.

    `suspicion` is what `suspicions` says of this text; it saves time where many texts are asked about at once.
    """
    counts: Counter[str] = Counter()
    [suspicion] = [suspicion] if suspicion else suspicions([text])
    clean = text
    if section.secrets and suspicion.private_key:
        clean, counts["secrets"] = _PRIVATE_KEY.subn(rf"\1\n{KEY}\n\2", text)
    if section.secrets and suspicion.secrets:
        starts = suspicion.secrets if clean == text else suspicions([clean])[0].secrets
        clean = _changed(clean, starts, lambda line: _without_secrets(line, counts))
    if suspicion.personal and (section.emails or section.addresses):
        starts = suspicion.personal if clean == text else suspicions([clean])[0].personal
        clean = _changed(clean, starts, lambda line: _personal(line, section, counts))
    return clean, counts


def redact_conversation(text: str, section: Redact) -> tuple[str, Counter[str]]:
    """`redact` for what is said in a conversation."""
    counts: Counter[str] = Counter()
    turns = []
    messages = parse_conversation(text)
    for message, suspicion in zip(messages, suspicions([message.content for message in messages]), strict=True):
        content, found = redact(message.content, section, suspicion)
        counts += found
        turns.append(Message(message.role, content))
    return render_conversation(turns), counts


def _personal(line: str, section: Redact, counts: Counter[str]) -> str:
    if section.emails and "@" in line:
        line = _replaced(_EMAIL, line, _email, "emails", counts)
    if section.addresses and line.count(".") >= 3:
        line = _replaced(_IPV4, line, _ipv4, "addresses", counts)
    if section.addresses and line.count(":") >= 2:
        line = _replaced(_IPV6, line, _ipv6, "addresses", counts)
    return line


def _without_secrets(line: str, counts: Counter[str]) -> str:
    for secret in _found(line):
        counts["secrets"] += line.count(secret)
        line = line.replace(secret, KEY)
    return line


def _lines(texts: Sequence[str], pattern: str) -> Iterator[tuple[int, ...]]:
    """Of each text, where the lines begin in which RE2 finds a pattern that matches no line break."""
    # Cut where each such line first matches; a piece then begins with the next line.
    cut = pc.split_pattern_regex(pa.array(texts, pa.large_string()), pattern=f"(?:{pattern})[^\\n]*\\n?")
    for text, pieces in zip(texts, cut, strict=True):
        starts = []
        place = 0
        for piece in pieces.as_py()[:-1]:
            place += len(piece)
            starts.append(text.rfind("\n", 0, place) + 1)
            place = text.find("\n", place) + 1
        yield tuple(starts)


def _changed(text: str, starts: Sequence[int], change: Callable[[str], str]) -> str:
    """The text with the lines changed that begin at `starts`."""
    done = 0
    pieces: list[str] = []
    for start in starts:
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        pieces += text[done:start], change(text[start:stop])
        done = stop
    return "".join([*pieces, text[done:]])


def _found(line: str) -> list[str]:
    # Longest first: one secret may lie inside another.
    matches = (match for pattern in _PATTERNS for match in pattern.finditer(line))
    # A group may be the secret with its name left out, or only a part of it.
    values = {max((match[0], *filter(None, match.groups()[:1])), key=_secret_first) for match in matches}
    real = (value for value in values if not any(harmless(value) for harmless in _HARMLESS))
    return sorted(real, key=lambda value: (-len(value), value))


def _secret_first(value: str) -> tuple[bool, int]:
    """Sorts the shortest value last that is long enough to be a secret."""
    return len(value) >= _SHORTEST_SECRET, -len(value)


def _replaced(
    pattern: re.Pattern[str], text: str, replace: Callable[[re.Match[str]], str], kind: str, counts: Counter[str]
) -> str:
    def counted(match: re.Match[str]) -> str:
        new = replace(match)
        counts[kind] += new != match[0]
        return new

    return pattern.sub(counted, text)


def _email(match: re.Match[str]) -> str:
    # `git@` is how repositories are addressed, and `//user:password@host` is how servers are.
    word = re.split(r"[\s\"'<>]", match.string[: match.start()])[-1]
    kept = match["local"] == "git" or "//" in word or _RESERVED.fullmatch(match["domain"])
    return match[0] if kept else EMAIL


def _ipv4(match: re.Match[str]) -> str:
    value = match[0]
    if len(value) == len("1.2.3.4"):
        # A version, unless the line speaks of servers: as BigCode's regular expressions tell the two apart.
        context = match.string.lower()
        if "dns" not in context and "server" not in context:
            return value
    return IPV4 if _is_public(value) else value


def _ipv6(match: re.Match[str]) -> str:
    return IPV6 if match[0].count(":") > 1 and _is_public(match[0]) else match[0]


@functools.lru_cache(maxsize=65_536)
def _is_public(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
