"""Rules for numbers that are weak by their form alone: they count only near a word that names them.

Knows the words in English, German, French, Spanish and Italian. Every rule takes time proportional
to the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memaudit.sensitive.shapes import Span

_GAP = 40
"""Most characters between a word and its number."""

_MONTHS = (
    "jan(?:uary|uar|vier)?|ene(?:ro)?|gen(?:naio)?|feb(?:ruary|ruar|rero|braio)?|f[ée]vr?(?:ier)?|"
    "m[aä]r(?:ch|z|s|zo)?|apr(?:il|ile)?|avr(?:il)?|abr(?:il)?|ma[iy](?:o)?|mag(?:gio)?|"
    "jun[ei]?|juin|jun(?:io)|giu(?:gno)?|jul[yi]?|juil(?:let)?|jul(?:io)|lug(?:lio)?|"
    "aug(?:ust)?|ao[uû]t|ago(?:sto)?|sept?(?:ember|embre|iembre)?|set(?:tembre)?|"
    "o[ck]t(?:ober|obre|ubre)?|ott(?:obre)?|nov(?:ember|embre|iembre)?|"
    "de[cz](?:ember)?|d[ée]c(?:embre)?|dic(?:iembre|embre)?"
)
_YEAR = r"(?:18[89]|19\d|20\d)\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = (
    rf"(?:{_YEAR}[-./](?:0?[1-9]|1[0-2])[-./]{_DAY}"
    rf"|{_DAY}(?P<sign>[-./] ?){_DAY}(?P=sign)(?:{_YEAR}|\d\d)"
    rf"|{_DAY}(?:st|nd|rd|th|er|\.|º|°)?,?[ -](?:of |de )?(?:{_MONTHS})\.?,?[ -](?:del? )?{_YEAR}"
    rf"|(?:{_MONTHS})\.? {_DAY}(?:st|nd|rd|th)?,? {_YEAR})"
)
_BIRTH = (
    r"born|d\.?o\.?b\.?|birth[ _-]?dates?|birthdays?|dates?[ _]of[ _]birth|birth"
    r"|geboren|geb\.|geburts(?:datum|tag)|n[ée](?:\(e\)|e?s?) (?:le|à)|naissance"
    r"|nac[ií]|naci[óo]|nacid[oa]s?|nacimiento|f\. ?nac\.|nat[oaie]|nascita"
)
_CODE = (
    r"pins?|pin[ _-]?(?:codes?|numbers?|nummer)|pass[ -]?codes?|tan|otp|geheimzahl|digicode|clave"
    r"|(?:access|security|verification|confirmation|door|gate|entry|unlock|alarm|safe|lock|one-time"
    r"|activation|authentication|login|voicemail|your)[ _-]codes?"
    r"|(?:zugangs|sicherheits|bestätigungs|verifizierungs|tür|freischalt|aktivierungs|einmal"
    r"|entsperr|pin-?)codes?"
    r"|code (?:pin|secret|confidentiel|d['’](?:acc[èe]s|entr[ée]e|activation)"
    r"|de (?:la porte|s[ée]curit[ée]|v[ée]rification|confirmation|validation))"
    r"|c[óo]digo (?:pin|secreto|del? (?:acceso|seguridad|verificaci[óo]n|confirmaci[óo]n|portal))"
    r"|codice (?:pin|segreto|di (?:accesso|sicurezza|verifica|conferma|sblocco))"
)
_THE_CODE = (
    r"(?:the|this|that|my|our|with|using|enter(?:ing)?) code"
    r"|(?:der|dem|den|dein|deinem|ihr|ihrem) code|(?:le|ce|votre) code"
    r"|(?:el|del|al|su) c[óo]digo|(?:il|col|del|suo) codice"
)
"""Codes of no named kind: the number must follow at once."""
_DIGITS = r"(?:\d{3}[ -]\d{3}|\d{4,8})"
_CVC = r"cvv2?|cvc2?|security codes?|pr[üu]fziffer|cryptogramme"
_SUBJECTS = {
    "en": (
        "order|case|customer|client|contract|policy|invoice|ticket|booking|reservation|account"
        "|member(?:ship)?|patient|claim|reference|tracking|employee|student|docket|confirmation"
    ),
    "de": (
        "bestell(?:ung)?|auftrags?|kunden|vertrags?|rechnungs?|vorgangs?|fall|akten|ticket|buchungs?"
        "|versicherungs|mitglieds|patienten|schadens?|policen|konto|personal|matrikel|referenz"
    ),
    "fr": (
        "commande|dossier|client|contrat|facture|police|r[ée]servation|sinistre|adh[ée]rent|patient"
        "|compte|abonn[ée]|allocataire"
    ),
    "es": (
        "pedido|caso|cliente|contrato|factura|expediente|p[óo]liza|reserva|socio|paciente|cuenta"
        "|siniestro"
    ),
    "it": (
        "ordine|pratica|caso|cliente|contratto|fattura|polizza|prenotazione|tessera|paziente|conto"
        "|sinistro"
    ),
}
_NUMBER = r"(?:numbers?|n[úu]mero|num\.?|n\.?[°º]|no\.?|nr\.?|n\.|ids?|ref\.?|#)"
_NOUNS = (
    "order|case|ticket|invoice|contract|booking|claim|bestellung|rechnung|vertrag|auftrag|vorgang"
    "|commande|dossier|contrat|facture|pedido|expediente|contrato|factura|p[óo]liza|ordine|pratica"
    "|contratto|fattura|polizza"
)
"""Nouns that a number follows at once."""
_LONG = (
    r"(?!\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?!\d)|(?:19|20)\d\d[-/](?:19|20)?\d\d(?!\d))"
    r"[A-Z]{0,4}-?\d[\d/-]{4,14}"
)
"""A number with at least five signs that is no date and no two years."""
_ROMANCE = "|".join(_SUBJECTS[language] for language in ("fr", "es", "it"))
_RECORD = (
    rf"(?:{_SUBJECTS['en']})[ _-]?(?:{_NUMBER}|reference|code)"
    rf"|(?:{_SUBJECTS['de']})[ -]?(?:nummern?|nr\.?|zeichen|id)|aktenzeichen|az\."
    rf"|(?:num[ée]ro|n[úu]mero|n\.?[°º]|n\.|n[úu]m\.|r[ée]f(?:[ée]rence)?\.?|codice|identifiant)"
    rf" (?:d[eiu]l? |d['’]|della? )?(?:la )?(?:{_ROMANCE})"
    rf"|(?:{_ROMANCE}) (?:{_NUMBER}|num[ée]ro)"
)
_TOKEN = (
    r"(?=[A-Za-z/_.-]{0,12}\d)(?=(?:[A-Za-z/_.-]{0,12}\d){4})"
    r"[A-Za-z0-9](?:[A-Za-z0-9/_-]|\.(?=\d)){3,23}"
)
"""A number with at least four digits, perhaps with letters and hyphens."""


def _after(words: str, form: str, gap: str = rf"[^\d.!?;]{{0,{_GAP}}}?") -> re.Pattern[str]:
    """Return a pattern of a number behind a word, with the number as group ``number``."""
    text = rf"(?<!\w)(?:{words})(?!\w){gap}(?<![\w.,])(?P<number>{form})(?! ?[%€$£]|\w|[.,]\d)"
    return re.compile(text, re.IGNORECASE)


_BIRTH_DATES = (
    _after(_BIRTH, _DATE, rf"[^\d!?;]{{0,{_GAP}}}?"),
    re.compile(rf"(?<![\w.,])(?P<number>{_DATE})(?: in \w{{1,20}})? geboren(?!\w)", re.IGNORECASE),
)
_CODES = (
    _after(_CODE, _DIGITS),
    _after(_CVC, r"\d{3,4}"),
    _after(_THE_CODE, r"\d{4,8}", r"(?: is| was| lautet| ist| est| es| è)?:? ?[\"'„“«]?"),
    re.compile(
        rf"(?<![\w.,])(?P<number>{_DIGITS}) (?:is|as|ist|als|est|es|è) (?:[\w-]{{1,15}} ){{0,4}}"
        rf"(?:{_CODE})(?!\w)",
        re.IGNORECASE,
    ),
)
_RECORDS = (
    _after(_RECORD, _TOKEN, r"[^\d!?;]{0,24}?"),
    _after(_NOUNS, _LONG, r" [#n]?[°º]?"),
)


def birth_dates(text: str) -> Iterator[Span]:
    """Find dates behind a word for birth."""
    yield from _numbers(text, _BIRTH_DATES)


def codes(text: str) -> Iterator[Span]:
    """Find PINs, one-time codes and card security codes beside a word for them."""
    yield from _numbers(text, _CODES)


def record_numbers(text: str) -> Iterator[Span]:
    """Find numbers of orders, cases, customers and contracts behind a word for them."""
    yield from _numbers(text, _RECORDS)


def _numbers(text: str, patterns: tuple[re.Pattern[str], ...]) -> Iterator[Span]:
    """Yield the numbers that any pattern finds, in text order, without overlaps."""
    end = 0
    for start, stop in sorted(
        match.span("number") for pattern in patterns for match in pattern.finditer(text)
    ):
        if start >= end:
            yield Span(start, stop)
            end = stop
