"""Personal data in a line of text: e-mail addresses, and public network addresses that stand for a host.

What looks like either is often neither: a version, an object identifier, the number of a section, a slice, the product
of two matrices, the name of an algorithm of SSH. What stands around it decides.
"""

import functools
import ipaddress
import re
from collections.abc import Iterator

from data_pipeline.filters.domains import ENDS, RESERVED
from data_pipeline.filters.secrets import Extent

_EMAIL = re.compile(
    r"(?<![\w.+%@/-])(?P<local>[A-Za-z0-9][\w.+%-]{0,63})@(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}"
    r"(?P<end>[A-Za-z]{2,24}))(?![\w@(\[-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
# Of IPv6, only 2000::/3 has been given out.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:])")

# Names of algorithms and extensions of SSH end in the domain of who defined them (RFC 4251, 6).
_SSH_DOMAINS = frozenset(("openssh.com", "libssh.org", "ssh.com", "lysator.liu.se", "putty.projects.tartarus.org"))
_SSH_NAME = re.compile(r".*[-\d].*|zlib|statvfs|fstatvfs|hardlink|fsync|lsetstat|limits|eow|simple|winadj|none|lzma")

_NO_ADDRESS_BEFORE = re.compile(
    r"(?:[\w\])][=<>!~]=\s?|\w-|[A-Za-z]/|(?:^|\s)(?:#|//|\*)\s{0,2}(?:[0-9.]+ / )?|RFC\s?[0-9]+[,:]?\s|"
    r"(?i:\bv|versions?|__version__|release[sd]?|rev(?:ision)?|oids?|objectidentifier|dotted.string|sections?|sect?\."
    r"|§|clauses?|chapters?|appendix|figure|table|algorithm|rule|paragraph|\brfc|\biso|\bes[0-9]|standard|billiard"
    r"|python|sqlite|windows|kernel|java|jdk|driver|firmware|build)[\s\"'`*(=:,\[]{0,8})$"
)
_NO_ADDRESS_AFTER = re.compile(r"[-_+][A-Za-z]|\.(?:tar|zip|whl|t?gz|exe|deb|rpm|jar|dist-info)\b")
# Object identifiers of ISO and ITU (X.660) begin so; of addresses that do, few are in use.
_OBJECT_IDENTIFIER = re.compile(r"(?:0|1\.3|2\.(?:5|16|23))\.")
_ADDRESS_BEFORE = re.compile(r"(?:://|@|\\\\|\)\|)$")
_ADDRESS_AFTER = re.compile(r":[0-9]{2,5}\b|/(?:[0-9]|[12][0-9]|3[0-2])\b(?!\.)| - - \[")
_ADDRESS_WORDS = re.compile(
    r"(?i:(?<![a-z])(?:ips?|ipv[46]|dns|cidr|ping6?|ssh|scp|tcp|udp|http|ntp|dig|inet6?|inet_\w+|whois"
    r"|mtr|aaaa)(?![a-z])|addr|host|server|resolver|gateway|subnet|netmask|proxy|proxies|peer|remote|client|listen"
    r"|\bbind\b|connect|traceroute|icmp|network|socket|iptables|router|mirror|\bport\b|\bdial\b)"
    r"|Ip\b|IP"
)
_NEARBY = 80
_SLICE = re.compile(r"[\w\])]\[\s*(?:[^\[\]]*[:,])?$")


def emails(text: str, start: int, stop: int) -> Iterator[Extent]:
    """Where the e-mail addresses of a line of a text are, those of reserved domains aside."""
    for match in _EMAIL.finditer(text, start, stop):
        if match["end"].lower() not in ENDS or RESERVED.fullmatch(match["domain"]):
            continue
        if match["domain"].lower() in _SSH_DOMAINS and _SSH_NAME.fullmatch(match["local"]):
            continue
        # `git@` is how repositories are addressed, and `//user:password@host` is how servers are.
        word = re.split(r"[\s\"'<>]", text[max(start, match.start() - 300) : match.start()])[-1]
        if match["local"] in ("git", "hg", "svn") or "//" in word:
            continue
        first = match.start()
        if text[max(start, first - 1) : first] == "\\":
            # An escape: of a line end, before an address, or of a letter in the midst of a word.
            if text[first] not in "nrt" or match["local"] in "nrt":
                continue
            first += 1
        yield first, match.end()


def ipv4(line: str) -> Iterator[Extent]:
    """Where a line has public IPv4 addresses of hosts."""
    for match in _IPV4.finditer(line):
        if is_public(match[0]) and _is_host(line, match):
            yield match.span()


def ipv6(line: str) -> Iterator[Extent]:
    """Where a line has public IPv6 addresses of hosts."""
    for match in _IPV6.finditer(line):
        before = line[: match.start()]
        if match[0].count(":") > 1 and is_public(match[0]) and not _SLICE.search(before[-_NEARBY:]):
            quoted = before[-1:] in ("'", '"', "`", "[") and line[match.end() : match.end() + 1] in (
                "'",
                '"',
                "`",
                "]",
                "/",
            )
            if quoted or len(list(filter(None, match[0].split(":")))) > 3 or _ADDRESS_WORDS.search(before[-_NEARBY:]):
                yield match.span()


@functools.lru_cache(maxsize=65_536)
def is_public(value: str) -> bool:
    """Whether this is an address that packets find from everywhere."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def _is_host(line: str, match: re.Match[str]) -> bool:
    before, after = line[max(0, match.start() - _NEARBY) : match.start()], line[match.end() : match.end() + _NEARBY]
    if _ADDRESS_BEFORE.search(before) or _ADDRESS_AFTER.match(after):
        return not _NO_ADDRESS_AFTER.match(after)
    if _OBJECT_IDENTIFIER.match(match[0]) or _NO_ADDRESS_BEFORE.search(before) or _NO_ADDRESS_AFTER.match(after):
        return False
    if _ADDRESS_WORDS.search(before) or _ADDRESS_WORDS.search(after):
        return True
    # Few versions have two parts of three digits.
    return sum(int(part) >= 100 for part in match[0].split(".")) >= 2
