"""A token classification model that marks names and addresses in text: loaded and run.

Knows transformers, and the tags that such models put on tokens. Nothing but safetensors is opened,
and no code that comes with a model is run. Knows nothing of the target or of windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.attention import refuse_foreign_code
from memaudit.target.checkpoint import fingerprint_of
from memaudit.target.failures import explained, quiet_transformers
from memaudit.target.openings import watched
from memaudit.target.source import find_source, ready_source
from memaudit.target.text_files import private_copy

_BATCH = 64  # texts of a pass
_TAG = re.compile(r"(?:(?P<place>[BIELSU])-)?(?P<label>.+)")


class Entity(NamedTuple):
    """Something that the model marked."""

    label: str
    """As the model calls it, without the tag's ``B-`` or ``I-``."""
    start: int
    """In characters of the text, as is the next."""
    end: int


class EntityModel:
    """A model and its tokenizer, ready to mark texts."""

    def __init__(self, model: Any, tokenizer: Any, about: str) -> None:
        self.about = about
        """Its name, and what its files hash to."""
        self._model, self._tokenizer = model, tokenizer
        self._tags = [_TAG.fullmatch(tag) for _, tag in sorted(model.config.id2label.items())]

    @property
    def labels(self) -> frozenset[str]:
        """Everything that it can mark."""
        return frozenset(tag["label"] for tag in self._tags if tag) - {"O"}

    def find(self, texts: Sequence[str]) -> list[list[Entity]]:
        """What it marks in each text; of one longer than its positions, in what fits."""
        found: list[list[Entity]] = []
        size = _BATCH
        while len(found) < len(texts):
            try:
                found += self._pass(texts[len(found) : len(found) + size])
            except FAILED_ALLOCATION as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                size //= 2
        return found

    @torch.inference_mode()
    def _pass(self, texts: Sequence[str]) -> list[list[Entity]]:
        positions = getattr(self._model.config, "max_position_embeddings", None) or 512
        encoded = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(positions, self._tokenizer.model_max_length),
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = encoded.pop("offset_mapping").tolist()
        tags = self._model(**encoded.to(self._model.device)).logits.argmax(dim=-1).tolist()
        return [list(self._joined(*pair)) for pair in zip(tags, offsets, strict=True)]

    def _joined(self, tags: Sequence[int], offsets: Sequence[Sequence[int]]) -> Iterator[Entity]:
        """Tokens of one label that follow each other, as one."""
        open_: Entity | None = None
        for number, (start, end) in zip(tags, offsets, strict=True):
            tag = self._tags[number]
            label = "O" if tag is None or end <= start else tag["label"]
            goes_on = open_ is not None and open_.label == label
            if open_ is not None and goes_on and tag is not None:
                # A word that is cut into tokens goes on, whatever the tags of its pieces.
                goes_on = tag["place"] not in ("B", "S", "U") or start == open_.end
            if open_ is not None and goes_on:
                open_ = open_._replace(end=end)
                continue
            if open_ is not None:
                yield open_
            open_ = None if label == "O" else Entity(label, start, end)
        if open_ is not None:
            yield open_


def load_entity_model(name: str, offline: bool, device: torch.device) -> EntityModel:
    """Load a model by hub id or folder.

    Raises:
        TargetError: there is none, or it classifies no tokens, or has no fast tokenizer.
    """
    settings = TargetSettings(offline=offline)
    source = ready_source(find_source(name, settings))
    asked = {"local_files_only": source.here_only, "trust_remote_code": False}
    with (
        explained(name),
        quiet_transformers(),
        watched(name, allow_pickle=False) as openings,
    ):
        with private_copy(source, settings) as copied:
            tokenizer = AutoTokenizer.from_pretrained(copied.location, **asked)
            config = AutoConfig.from_pretrained(copied.location, **asked)
        config.name_or_path = source.location
        refuse_foreign_code(name, config, settings)
        model, info = AutoModelForTokenClassification.from_pretrained(
            source.location,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            **asked,
        )
        openings.require_exactly(source.weights_files)
        files = fingerprint_of(source, settings)
    openings.require_unchanged()
    if info["missing_keys"] or not tokenizer.is_fast or tokenizer.pad_token is None:
        raise TargetError(
            f"{name}: is no token classification model with a fast tokenizer that pads; "
            "sensitive.entity_model needs one"
        )
    weights = [digest for file, digest in files.items() if file.endswith(".safetensors")]
    about = f"{name}, weights {', '.join(digest[:16] for digest in weights)}"
    return EntityModel(model.to(device).eval(), tokenizer, about)
