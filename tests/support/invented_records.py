"""Invented records of five countries with known answers, and texts without any answer.

Run as a script it prints precision and recall of the detectors by category, and with a file of
other texts how often they mark something there:

    PYTHONPATH=.:tests:tests/support python tests/support/invented_records.py [TEXTS.jsonl]

Nobody has these names, numbers or addresses. Keys are put together at run time, so that no scanner
takes this file for a leak.
"""

from __future__ import annotations

import gzip
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memaudit.sensitive import presidio
from memaudit.sensitive.categories import ALL
from memaudit.sensitive.detectors import Detector, choose_detectors, make_detectors
from memaudit.sensitive.shapes import Span, luhn

EACH = 40
"""Records of each country."""
OTHERS = 1_000
"""Texts without any answer."""


@dataclass
class Invented:
    """A record, and the strings to be found in it by category."""

    country: str
    text: str = ""
    answers: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Tally:
    """Counts of one category."""

    there: int = 0
    """Strings in the records."""
    right: int = 0
    """Of them, those that a detector marks."""
    wrong: int = 0
    """Marks in the records where there is no such string."""
    elsewhere: int = 0
    """Marks in the texts without any."""

    @property
    def recall(self) -> float:
        return self.right / self.there if self.there else float("nan")

    @property
    def precision(self) -> float:
        marks = self.right + self.wrong
        return self.right / marks if marks else float("nan")


def _digits(rng: random.Random, count: int, first: str = "") -> str:
    return first + "".join(rng.choices(string.digits, k=count - len(first)))


def _card(rng: random.Random, country: str) -> str:
    body = _digits(rng, 15, rng.choice(["4", "51", "54"]))
    number = next(body + last for last in string.digits if luhn(body + last))
    groups = [number[at : at + 4] for at in range(0, 16, 4)]
    return rng.choice(["", " ", "-"]).join(groups)


_BANKS = {"UK": "GB", "DE": "DE", "FR": "FR", "ES": "ES"}


def _account(rng: random.Random, country: str) -> str:
    code = _BANKS[country]
    body = {"GB": "WEST" + _digits(rng, 14), "DE": _digits(rng, 18)}.get(code) or _bank(rng, code)
    value = int("".join(str(int(sign, 36)) for sign in f"{body}{code}00"))
    iban = f"{code}{98 - value % 97:02}{body}"
    if rng.random() < 0.5:
        return iban
    return " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))


def _bank(rng: random.Random, code: str) -> str:
    """Return the national part of a French or Spanish account, with its own check digits."""
    if code == "FR":
        bank, branch, account = _digits(rng, 5), _digits(rng, 5), _digits(rng, 11)
        key = 97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97
        return f"{bank}{branch}{account}{key:02}"
    bank, account = _digits(rng, 8), _digits(rng, 10)
    weights = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)

    def check(number: str) -> int:
        left = 11 - sum(int(d) * w for d, w in zip(number, weights, strict=True)) % 11
        return {10: 1, 11: 0}.get(left, left)

    return f"{bank}{check('00' + bank)}{check(account)}{account}"


def _phone(rng: random.Random, country: str) -> str:
    if country == "US":
        area, end = rng.choice(["415", "212", "650", "303"]), _digits(rng, 4)
        middle = f"{rng.randint(2, 9)}{_digits(rng, 2)}".replace("11", "12")
        form = rng.choice(["({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "{}.{}.{}"])
        return form.format(area, middle, end)
    if country == "UK":
        london = f"{rng.choice(['7946', '7123', '8123'])} {_digits(rng, 4)}"
        mobile = f"7{rng.choice(['400', '811', '973'])} {_digits(rng, 6)}"
        return rng.choice([f"020 {london}", f"+44 20 {london}", f"0{mobile}", f"+44 {mobile}"])
    if country == "DE":
        local = _digits(rng, 7, rng.choice("23456789"))
        mobile = _digits(rng, 7, rng.choice("23456789"))
        forms = [f"030 {local}", f"+49 30 {local}", f"0171 {mobile}", f"+49 171 {mobile}"]
        return rng.choice([*forms, f"(030) {local}", f"030/{local}"])
    pairs = [_digits(rng, 2) for _ in range(4)]
    if country == "FR":
        first = rng.choice("1256")
        return rng.choice([f"0{first} ", f"+33 {first} "]) + " ".join(pairs)
    mobile = f"6{_digits(rng, 2)} {_digits(rng, 3)} {_digits(rng, 3)}"
    fixed = f"91 {rng.choice('2345')}{_digits(rng, 2)} {' '.join(pairs[:2])}"
    return rng.choice([mobile, f"+34 {mobile}", fixed, f"+34 {fixed}"])


_MONTHS = {
    "US": ["January", "March", "May", "June", "September", "October", "December"],
    "DE": ["Januar", "März", "Mai", "Juni", "September", "Oktober", "Dezember"],
    "FR": ["janvier", "mars", "mai", "juin", "septembre", "octobre", "décembre"],
    "ES": ["enero", "marzo", "mayo", "junio", "septiembre", "octubre", "diciembre"],
}


def _birth(rng: random.Random, country: str) -> str:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1931, 2009)
    word = rng.choice(_MONTHS.get(country, _MONTHS["US"]))
    written = {
        "US": [
            f"{word} {day}, {year}",
            f"{month:02}/{day:02}/{year}",
            f"{month}/{day}/{year % 100:02}",
        ],
        "UK": [f"{day} {word} {year}", f"{day:02}/{month:02}/{year}", f"{day}th of {word} {year}"],
        "DE": [f"{day}. {word} {year}", f"{day:02}.{month:02}.{year}", f"{day}.{month}.{year}"],
        "FR": [f"{day} {word} {year}", f"{day:02}/{month:02}/{year}", f"1er {word} {year}"],
        "ES": [
            f"{day} de {word} de {year}",
            f"{day:02}/{month:02}/{year}",
            f"{day}-{month}-{year}",
        ],
    }
    return rng.choice([*written[country], f"{year}-{month:02}-{day:02}"])


def _code(rng: random.Random, country: str) -> str:
    return _digits(rng, rng.choice([4, 4, 4, 5, 6, 6]))


def _record_number(rng: random.Random, country: str) -> str:
    plain = _digits(rng, rng.randint(6, 10), rng.choice("123456789"))
    year = rng.randint(2019, 2026)
    letters = "".join(rng.choices("ABCDEFGHKLMNPRSTVWZ", k=rng.randint(1, 3)))
    forms = [f"{letters}-{year}-{_digits(rng, 5)}", f"{letters}{_digits(rng, 7)}"]
    return rng.choice(
        [plain, plain, *forms, f"{year}/{_digits(rng, 5)}", f"{plain[:4]}-{plain[4:]}"]
    )


def _email(rng: random.Random, country: str) -> str:
    first, last = rng.choice(_FIRST[country]), rng.choice(_LAST[country])
    plain = str.maketrans("äöüéëñíóáú", "aoueeñioau")
    names = [name.lower().translate(plain) for name in (first, last)]
    host = rng.choice(["example.org", "mail.example.com", "example.co.uk", "post.example.net"])
    return rng.choice([".", "_", ""]).join(names) + rng.choice(["", "77", "+shop"]) + f"@{host}"


def _key(rng: random.Random, country: str) -> str:
    letters = string.ascii_letters + string.digits
    made = [
        "AKIA" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=16)),
        "ghp" + "_" + "".join(rng.choices(letters, k=36)),
        "sk" + "_live_" + "".join(rng.choices(letters, k=24)),
        "AIza" + "".join(rng.choices(letters + "-_", k=35)),
    ]
    return rng.choice(made)


def _national_id(rng: random.Random, country: str) -> str:
    if country == "US":
        return f"{rng.randint(101, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"
    if country == "UK":
        digits = _digits(rng, 6)
        return f"AB {digits[:2]} {digits[2:4]} {digits[4:]} C".replace(" ", rng.choice(["", " "]))
    if country == "DE":
        places = rng.sample(string.digits[1:], 9)
        places.insert(rng.randint(1, 9), places[0])  # one digit stands twice
        product = 10
        for digit in map(int, places):
            product = ((digit + product) % 10 or 10) * 2 % 11
        return "".join(places) + str((11 - product) % 10)
    if country == "FR":
        month, sex = rng.randint(1, 12), rng.choice("12")
        body = f"{sex}{_digits(rng, 2)}{month:02}75{_digits(rng, 6)}"
        return f"{body}{97 - int(body) % 97:02}"
    number = _digits(rng, 8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(number) % 23]}"


MAKERS: Mapping[str, Callable[[random.Random, str], str]] = {
    "key": _key,
    "email": _email,
    "account": _account,
    "card": _card,
    "birth-date": _birth,
    "code": _code,
    "record-number": _record_number,
    "phone": _phone,
    "national-id": _national_id,
}
_FIRST = {
    "US": ["Dana", "Marcus", "Tiffany", "Owen"],
    "UK": ["Imogen", "Alistair", "Priya", "Gareth"],
    "DE": ["Jörg", "Annika", "Sönke", "Heike"],
    "FR": ["Élodie", "Thierry", "Maëlle", "Bastien"],
    "ES": ["Begoña", "Íñigo", "Rocío", "Gonzalo"],
}
_LAST = {
    "US": ["Whitlock", "Ferraro", "Okafor"],
    "UK": ["Pemberton", "Sandhu", "Llewellyn"],
    "DE": ["Brüggemann", "Kowalczyk", "Thiele"],
    "FR": ["Delacroix", "Mercier", "Benhamou"],
    "ES": ["Etxeberria", "Vázquez", "Núñez"],
}

PHRASES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "US": {
        "key": ['api_key = "{}"', "I pasted {} into the config by mistake"],
        "email": ["you can email {} anytime", "Contact: <{}>", "login {}"],
        "card": ["my Visa is {}", "cardNumber={}", "refund to {}, thanks"],
        "birth-date": [
            "My son was born on {}.",
            "date_of_birth={}",
            "DOB {} per chart",
            "My birthday is {}, so I'm a Capricorn.",
            "Birthdate on file: {}",
            "I turned thirty on {}.",
        ],
        "code": [
            "the PIN for the alarm is {}",
            "Enter {} to sign in.",
            "Your security code: {}",
            "My debit card PIN was {}.",
            "Access code for the garage is {}, don't share it",
            "locker combination {}",
        ],
        "record-number": [
            "regarding order number {}",
            "ticket #{} is still open",
            "Policy number {}",
            "my account number is {}",
            "Confirmation number: {}",
            "Docket No. {}",
            "I have it here as {}, my loyalty number.",
        ],
        "phone": ["my number is {}", "Phone: {} (work)", "text me at {}"],
        "national-id": ["My social security number is {}.", "ssn={}", "SSN on file: {}"],
    },
    "UK": {
        "key": ['token: "{}"', "here is the key {}, rotate it"],
        "email": ["my email address is {}", "mailto:{}", "{} bounced"],
        "account": ["Account IBAN: {}", "sent it to {} this morning"],
        "card": ["I paid with {}", "card number {}", "Mastercard {}"],
        "birth-date": [
            "DOB: {}",
            "My date of birth is {}.",
            "The claimant was born on {}.",
            "born {} at St Thomas'",
            "Patient ({}) attended clinic.",
        ],
        "code": [
            "My card's PIN is {}",
            "the entry code for the flat is {}",
            "verification code {}",
            "Please quote your passcode, {}.",
            "the keypad wants {}",
        ],
        "record-number": [
            "Claim number {}",
            "Order no {} has shipped",
            "My policy number is {}",
            "case reference: {}",
            "Invoice {} remains unpaid",
            "membership no. {}",
            "Ref {}",
        ],
        "phone": ["give me a bell on {}", "Phone number: {}", "M: {}"],
        "national-id": ["My NI number is {}", "NINO: {}", "National Insurance No. {}"],
    },
    "DE": {
        "key": ['api_key: "{}"', "Zugang mit {} möglich"],
        "email": ["Meine Mailadresse lautet {}", "Mail: {}", "Antwort bitte an {}"],
        "account": ["Meine IBAN lautet {}", "Kontoverbindung {}"],
        "card": ["Meine Visa-Karte: {}", "abgebucht von {}"],
        "birth-date": [
            "Geburtstag: {}",
            "Mein Geburtsdatum ist der {}.",
            "Der Patient, geboren am {}, klagt über Husten.",
            "geb. am {}",
            "Sie kam am {} zur Welt.",
        ],
        "code": [
            "Die PIN lautet {}.",
            "PIN-Code: {}",
            "Ihr Sicherheitscode ist {}.",
            "mit der TAN {} bestätigt",
            "Das Schloss öffnet mit {}.",
        ],
        "record-number": [
            "Meine Kundennummer lautet {}.",
            "Bestellnummer: {}",
            "Auftragsnr. {}",
            "Ihr Aktenzeichen: {}",
            "Rechnung Nr. {}",
            "Die Vertragsnummer ist {}.",
            "Vorgang {} ist abgeschlossen",
        ],
        "phone": ["Meine Nummer: {}", "Telefon {}", "Sie erreichen mich unter {}."],
        "national-id": ["Meine Steuer-ID ist {}.", "IdNr. {}"],
    },
    "FR": {
        "key": ['cle_api = "{}"', "la clé {} ne marche plus"],
        "email": ["mon adresse est {}", "e-mail : {}", "répondre à {}"],
        "account": ["Mon IBAN est {}", "compte {}"],
        "card": ["Ma carte bancaire : {}", "CB {}"],
        "birth-date": [
            "Né(e) le : {}",
            "Ma date de naissance est le {}.",
            "Mme Roy, née le {}, demeurant à Lille",
            "date de naissance {}",
            "Elle a vu le jour le {}.",
        ],
        "code": [
            "Le code PIN est {}.",
            "code de sécurité : {}",
            "Mon code secret, c'est {}.",
            "Code confidentiel {}",
            "tapez {} à l'entrée",
        ],
        "record-number": [
            "Mon numéro de commande est {}.",
            "N° de dossier {}",
            "Numéro client : {}",
            "Facture n° {}",
            "ma commande {} est perdue",
            "Numéro de contrat {}",
            "Sous la référence {}",
        ],
        "phone": ["mon numéro est le {}", "Téléphone : {}", "joignable au {}"],
        "national-id": ["Mon numéro de sécu est le {}.", "n° SS {}"],
    },
    "ES": {
        "key": ['api_key = "{}"', "la clave {} no funciona"],
        "email": ["mi correo es {}", "Email: {}", "responder a {}"],
        "account": ["Mi IBAN es {}", "cuenta {}"],
        "card": ["Mi tarjeta es la {}", "Visa {}"],
        "birth-date": [
            "Mi fecha de nacimiento es el {}.",
            "Fecha nacimiento: {}",
            "nacido el {}",
            "Nació el {} en Cádiz.",
            "Cumplo años el {}.",
        ],
        "code": [
            "Mi PIN es {}",
            "código PIN: {}",
            "El código de seguridad es {}.",
            "clave de acceso {}",
            "marque {} en la puerta",
        ],
        "record-number": [
            "Mi número de cliente es {}",
            "Nº de pedido {}",
            "número de contrato: {}",
            "pedido {}",
            "Factura n.º {}",
            "Número de póliza {}",
            "con la referencia {}",
        ],
        "phone": ["mi teléfono es {}", "Teléfono: {}", "Móvil {}"],
        "national-id": ["mi DNI es {}", "NIF: {}", "con DNI {}"],
    },
}
"""Sentences around an answer, by country and category. The rules were written before them and
not changed for them, but for German nouns before ``Nr.``; about one in six has no word that the
rules know."""

FILLERS = {
    "US": ["Thanks for getting back to me so fast.", "We moved in 2019.", "It cost $48.50."],
    "UK": ["Sorry for the delay.", "The train left at 17.42.", "That came to £1,299.00."],
    "DE": ["Vielen Dank für Ihre Geduld.", "Das war 2018.", "Es kostete 1.249,00 Euro."],
    "FR": ["Merci de votre réponse.", "C'était en 2017.", "Le prix était de 89,90 €."],
    "ES": ["Gracias por su respuesta.", "Fue en 2016.", "Costó 1.150,00 €."],
}

PLAIN = (
    "The committee met on {date} at {time} and approved {n} of {m} proposals.",
    "Release {v} fixes {n} issues; upgrade from {v} takes {m} minutes.",
    "Revenue rose {p} % to {big} million in {year}, after {big} million in {year}.",
    "See section {n}.{m}, page {page}, of the report published on {date}.",
    "The function returns error code {page} if the buffer of {big} bytes is full.",
    "Ships to ZIP code {zip} within {n} days; other postal codes take {m}.",
    "ISBN 978-3-16-148410-{n}, {page} pages, {year}.",
    "In order {n} of {m} cases, the court cited case law from {year}.",
    "The road is {big} m long and was built between {year} and {year}.",
    "Server 192.168.{n}.{m} answered in {page} ms; {big} requests were served by {time}.",
    "He was born to a family of {n} children and moved to Ohio in {year}.",
    "Chapter {n}: in 17{m} the treaty was signed, {page} years before the war ended.",
    "model = Net(hidden={page}, layers={n}); lr = 0.00{m}; steps = {big}",
    "Commit 3f9a{page}c0de{m} changed {n} files, {page} insertions.",
    "Am {date} tagte der Ausschuss um {time} Uhr; {n} von {m} Anträgen wurden angenommen.",
    "Der Umsatz stieg um {p} % auf {big} Millionen Euro im Jahr {year}.",
    "Siehe § {n} Abs. {m} BGB, Seite {page}; Fall {n} von {m}.",
    "Die Postleitzahl {zip} gehört zu {n} Gemeinden mit {big} Einwohnern.",
    "Die Konferenz begann am {date} und kostete {big},00 Euro.",
    "Version {v} vom {date} behebt {n} Fehler im Code.",
    "Le comité s'est réuni le {date} à {time} et a adopté {n} des {m} textes.",
    "Le chiffre d'affaires atteint {big} millions d'euros en {year}, soit {p} % de plus.",
    "Voir l'article {n}, alinéa {m}, page {page} du Code civil de {year}.",
    "Le code postal {zip} couvre {n} communes et {big} habitants.",
    "La commission se reunió el {date} a las {time} y aprobó {n} de {m} propuestas.",
    "Los ingresos subieron un {p} % hasta {big} millones en {year}.",
    "El código postal {zip} comprende {n} municipios y {big} habitantes.",
    "Véase el caso {n} en la página {page} de la edición de {year}.",
    "Il codice postale {zip} comprende {n} comuni e {big} abitanti nel {year}.",
    "La seduta del {date} è iniziata alle {time} con {n} ordini del giorno su {m}.",
    "The score was {n}-{m} ({n}-{n}) before {big} fans on {date}.",
    "Tensor of shape ({n}, {m}, {page}) with {big} parameters, seed {zip}.",
    "Flight {page} left gate {n} at {time}, order of boarding {m}, temperature {n}.{m} °C.",
    "Doses of {page} mg were given to {n} patients aged {m}; trial began {date}.",
    "if (status == {page}) {{ retry({n}); sleep({big}); }} // added {date}",
    "The file has {big} lines; reference value {n}.{m}, account for {p} % of errors.",
)
"""Texts without any answer, which hold dates, amounts, versions and other numbers."""


def invented_records() -> list[Invented]:
    """Return 200 records, 40 of each country, each with two to four answers."""
    rng = random.Random(20)
    return [_record(rng, country) for country in PHRASES for _ in range(EACH)]


def _record(rng: random.Random, country: str) -> Invented:
    record = Invented(country)
    parts = [rng.choice(FILLERS[country])]
    for category in rng.sample(sorted(PHRASES[country]), rng.randint(2, 4)):
        value = MAKERS[category](rng, country)
        parts.append(rng.choice(PHRASES[country][category]).format(value))
        record.answers.append((category, value))
    name = f"{rng.choice(_FIRST[country])} {rng.choice(_LAST[country])}"
    parts.append(rng.choice([f"{name}", rng.choice(FILLERS[country])]))
    record.text = rng.choice([" ", "\n", " "]).join(parts)
    return record


def texts_without() -> list[str]:
    """Return 1,000 texts that hold numbers and nothing sensitive."""
    rng = random.Random(21)
    return [_plain(rng, PLAIN[number % len(PLAIN)]) for number in range(OTHERS)]


def _plain(rng: random.Random, form: str) -> str:
    def number(low: int, high: int) -> str:
        return str(rng.randint(low, high))

    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1990, 2026)
    dates = [f"{day}.{month}.{year}", f"{year}-{month:02}-{day:02}", f"{day}/{month}/{year}"]
    return form.format(
        date=rng.choice([*dates, f"{day} May {year}", f"{day}. Mai {year}"]),
        time=f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}",
        n=number(1, 9),
        m=number(10, 99),
        p=f"{rng.randint(1, 40)}.{rng.randint(0, 9)}",
        v=f"{rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}",
        big=f"{rng.randint(1, 999)},{rng.randint(0, 999):03}",
        page=number(100, 9999),
        zip=number(10000, 99999),
        year=year,
    )


def detectors_for(country: str, *, extras: bool) -> tuple[Detector, ...]:
    """Return the detectors with or without the packages of the extras, for phones of a country."""
    region = {"UK": "GB"}.get(country, country)
    detectors = make_detectors(region, packages=extras)
    if extras and presidio.is_installed():
        detectors += (presidio.national_ids(),)
    return choose_detectors(detectors, [ALL])


def marks(text: str, detectors: Sequence[Detector]) -> Iterator[tuple[str, Span]]:
    """Yield what the detectors mark, each character once, as the counts of a scan do."""
    claimed: list[Span] = []
    for detector in detectors:
        (spans,) = detector.find([text])
        for span in spans:
            if not any(span.start < other.end and other.start < span.end for other in claimed):
                claimed.append(span)
                yield detector.category, span


def measure(*, extras: bool) -> dict[str, Tally]:
    """Measure the detectors of every category on all records and texts."""
    tallies: dict[str, Tally] = {category: Tally() for category in MAKERS}
    by_country = {country: detectors_for(country, extras=extras) for country in PHRASES}
    for record in invented_records():
        marked = [
            (category, record.text[span.start : span.end])
            for category, span in marks(record.text, by_country[record.country])
        ]
        for category, value in record.answers:
            tallies[category].there += 1
            if (category, value) in marked:
                marked.remove((category, value))
                tallies[category].right += 1
        for category, _ in marked:
            tallies[category].wrong += 1
    for text in texts_without():
        for category, _ in marks(text, by_country["US"]):
            tallies[category].elsewhere += 1
    return tallies


def table(tallies: Mapping[str, Tally]) -> str:
    """Return the figures as a Markdown table."""
    rows = [
        f"| `{category}` | {tally.there} | {tally.precision:.2f} | {tally.recall:.2f} | "
        f"{tally.elsewhere} |"
        for category, tally in tallies.items()
    ]
    head = "| category | items | precision | recall | marks in 1,000 texts without any |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def show_wrong(*, extras: bool) -> Iterator[str]:
    """Yield what is missed or wrongly marked, for a look by hand."""
    for record in invented_records():
        detectors = detectors_for(record.country, extras=extras)
        marked = [(c, record.text[s.start : s.end]) for c, s in marks(record.text, detectors)]
        missed = [answer for answer in record.answers if answer not in marked]
        wrong = [mark for mark in marked if mark not in record.answers]
        if missed or wrong:
            yield f"{record.text!r}: missed {missed}, wrong {wrong}"


def main() -> None:
    for extras in (False, True):
        used = "used" if extras else "not used"
        sys.stdout.write(f"\nextras: {used}\n{table(measure(extras=extras))}\n")
    if "--wrong" in sys.argv:
        sys.stdout.write("\n".join(show_wrong(extras=True)) + "\n")
    for path in map(Path, sys.argv[1:]):
        if path.is_file():
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            lines = content.decode().splitlines()
            texts = [json.loads(line)["text"] for line in random.Random(0).sample(lines, OTHERS)]
            detectors = detectors_for("US", extras=True)
            marked = Counter(category for text in texts for category, _ in marks(text, detectors))
            sys.stdout.write(f"\n{path.name}: {dict(marked)}\n")


if __name__ == "__main__":
    main()
