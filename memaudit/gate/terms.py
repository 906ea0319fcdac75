"""Terms that two audits must share, so that a change between them comes from the model.

Knows settings, hashes and key ids. Knows nothing of windows or of what was extracted. The model
is not among the terms: it is what changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from memaudit.config.settings import LADDER, ScanConfig
from memaudit.data.fingerprints import SAMPLE_FORM
from memaudit.data.project_key import VARIABLE

Setting = bool | int | float | str | list[str] | None
_MAX_NAMED = 6
"""Differences named in a message; the rest are only counted."""


@dataclass(frozen=True)
class Terms:
    """Data, key and settings of an audit, as far as they affect what can be extracted."""

    data: str
    """HMAC-SHA256 of the data file under the key; may differ, as its samples are compared."""
    controls: str | None
    """HMAC-SHA256 of the controls, which also affect each window's fold; None without controls."""
    key_id: str
    """Id of the project key."""
    form: str
    """Format of the samples' fingerprints."""
    settings: Mapping[str, Setting]
    """Dotted name to value for the attacks and the protocol, sorted."""
    bos: str | None = None
    """``yes`` if every input started with the BOS token, else ``no``, as ``auto`` was resolved;
    None if unknown, as before the model is loaded."""
    chat_date: str | None = None
    """Date given to the chat template; None if it uses no date, or the date is unknown."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks on the model, weakest first."""
        named = self.settings.get("attacks")
        return tuple(named) if isinstance(named, list) else ()

    def attack_hash(self, attack: str) -> str:
        """Return the SHA-256 of an attack's name and its own settings."""
        own = attack.replace("-", "_")
        section = "dynamic" if attack == "dynamic-hard" else own
        values = {k: v for k, v in self.settings.items() if k.startswith(f"{section}.")}
        return _sha256([attack, values])

    @property
    def config_hash(self) -> str:
        """SHA-256 of all settings."""
        return _sha256(dict(self.settings))


def terms_of(
    config: ScanConfig,
    data: str,
    controls: str | None,
    key_id: str,
    bos: str | None = None,
    chat_date: str | None = None,
) -> Terms:
    """Return the terms of an audit: settings, HMAC-SHA256 of its files, and resolved values."""
    settings = dict(sorted(_settings(config)))
    return Terms(data, controls, key_id, SAMPLE_FORM, settings, bos, chat_date)


def differences(before: Terms, now: Terms) -> tuple[str, ...]:
    """Return the differences between two terms, a phrase each, the most important first."""
    phrases = []
    same_key = before.key_id == now.key_id  # else equal files have different HMACs
    if (before.key_id, before.form) != (now.key_id, now.form):
        earlier, later = f"{before.form} {before.key_id}", f"{now.form} {now.key_id}"
        phrases.append(
            f"made under another project key ({earlier}, now {later}): set {VARIABLE} to the same "
            "key for both"
        )
    old, new = before.controls, now.controls
    if old != new and (same_key or (old is None) != (new is None)):
        phrases.append(f"other controls (hmac-sha256 {_short(old)}, now {_short(new)})")
    if None not in (before.bos, now.bos) and before.bos != now.bos:
        phrases.append(f"BOS token before every input {before.bos}, now {now.bos}")
    if None not in (before.chat_date, now.chat_date) and before.chat_date != now.chat_date:
        phrases.append(f"windows.chat_date {before.chat_date}, now {now.chat_date}")
    for name in sorted(before.settings.keys() | now.settings.keys()):
        if name not in before.settings:
            phrases.append(f"{name} not recorded, now {_format(now.settings[name])}")
        elif name not in now.settings:
            phrases.append(f"{name} {_format(before.settings[name])}, now unused")
        elif before.settings[name] != now.settings[name]:
            earlier, later = _format(before.settings[name]), _format(now.settings[name])
            phrases.append(f"{name} {earlier}, now {later}")
    return tuple(phrases)


def named(phrases: tuple[str, ...]) -> str:
    """Join differences in one line, naming only the first few."""
    more = len(phrases) - _MAX_NAMED
    return "; ".join([*phrases[:_MAX_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _settings(config: ScanConfig) -> Iterator[tuple[str, Setting]]:
    attacks = [attack for attack in LADDER if attack in config.attacks and attack != "copy"]
    yield "attacks", list(attacks)
    for name in ("prefix_tokens", "suffix_tokens", "placement", "stride", "limit"):
        yield f"windows.{name}", getattr(config.windows, name)
    yield "target.bos", config.target.bos
    yield "protocol.seed", config.protocol.seed
    fitted = {"constant", "dynamic"} & set(attacks)
    if fitted:
        yield "prompts", "fitted in this run" if config.generator is None else "fitted earlier"
    if fitted and config.generator is None:
        yield from _section("protocol", config.protocol.model_dump(mode="json"))
        if "constant" in fitted or config.dynamic.starts_from_constant:
            yield from _section("constant", config.constant.model_dump(mode="json"))
        if "dynamic" in fitted:
            yield from _section("dynamic", config.dynamic.model_dump(mode="json"))
    if "dynamic-hard" in attacks:
        yield "dynamic.num_virtual_tokens", config.dynamic.num_virtual_tokens


def _section(name: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Setting]]:
    return ((f"{name}.{key}", value) for key, value in values.items())


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _short(hmac: str | None) -> str:
    return "none" if hmac is None else hmac[:8]


def _format(value: Setting) -> str:
    return ", ".join(value) if isinstance(value, list) else json.dumps(value)
