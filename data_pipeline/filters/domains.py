"""Ends of host names: which names can be those of a host that mail reaches, and which belong to nobody."""

import re

RESERVED = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|net|org))?|test|invalid|localhost|local)", re.IGNORECASE)
"""Domains that belong to nobody (RFC 2606, RFC 6762)."""

_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd "
    "cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gb gd "
    "ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg "
    "kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv "
    "mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa "
    "sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua "
    "ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "aero app arpa art asia bank berlin best bike biz blog build business cafe cam camp capital care careers cash "
    "cat center chat church city click cloud club codes coffee com community company computer consulting cool coop "
    "dance design dev digital direct directory domains earth education edu email energy engineer engineering "
    "enterprises estate events exchange expert family fans farm finance fit foundation fun fund fyi gallery games "
    "gmbh gold google gov graphics group guide guru health help host hosting house icu immo info ink institute int "
    "international jobs kim kitchen koeln land law legal life limited link live llc lol london love ltd ltda "
    "management market marketing mba media mil mobi moe money museum name net network news ngo ninja nyc one ong "
    "online org page paris partners photo photos photography pictures pizza plus post press pro productions "
    "properties pub quebec radio red reise reisen report review reviews rip rocks ruhr run sale school science scot "
    "security services sexy shop show site ski social software solar solutions space store stream studio style "
    "support surf swiss sydney systems tax team tech technology tel tips tirol today tokyo tools top tours town "
    "toys trade training travel university vegas ventures video vip vision vote wales wang watch wedding wien wiki "
    "win work works world wtf xxx xyz yoga zone"
)
ENDS = frozenset((*_COUNTRIES.split(), *_GENERIC.split()))
"""Top-level domains of IANA's root zone: those of countries, and generic ones that mail is seen from. Names that code
uses for attributes (`data`, `date`, `day`, `map`) are left out."""
