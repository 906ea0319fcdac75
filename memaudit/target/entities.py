"""Token classification models that mark names and addresses in text.

Knows transformers, and the tags that such models put on tokens. Opens nothing but safetensors, and
runs no code that comes with a model. Knows nothing about the target or windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from memaudit.config.settings import TargetSettings
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.attention import refuse_foreign_code
from memaudit.target.checkpoint import fingerprint_of
from memaudit.target.failures import explained, quiet_transformers
from memaudit.target.openings import watched
from memaudit.target.refusals import refusal
from memaudit.target.source import find_source, ready_source
from memaudit.target.text_files import private_copy

_BATCH = 64  # texts per pass
_TAG = re.compile(r"(?:(?P<place>[BIELSU])-)?(?P<label>.+)")


class Entity(NamedTuple):
    """Span of a text that the model marked."""

    label: str
    """Label in the model's config, without the tag's ``B-`` or ``I-``."""
    start: int
    """First character of the span in the text."""
    end: int
    """Character after the last of the span."""


class EntityModel:
    """A model and its tokenizer, ready to mark texts."""

    def __init__(self, model: Any, tokenizer: Any, about: str) -> None:
        self.about = about
        """Name of the model and hashes of its weights."""
        self._model, self._tokenizer = model, tokenizer
        self._tags = [_TAG.fullmatch(tag) for _, tag in sorted(model.config.id2label.items())]

    @property
    def labels(self) -> frozenset[str]:
        """Labels that the model can assign."""
        return frozenset(tag["label"] for tag in self._tags if tag) - {"O"}

    def find(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Return the entities in each text; a text longer than the model's positions is cut."""
        entities: list[list[Entity]] = []
        size = _BATCH
        while len(entities) < len(texts):
            try:
                entities += self._pass(texts[len(entities) : len(entities) + size])
            except FAILED_ALLOCATION as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                size //= 2
        return entities

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
        """Join consecutive tokens of one label to entities."""
        open_: Entity | None = None
        for number, (start, end) in zip(tags, offsets, strict=True):
            tag = self._tags[number]
            label = "O" if tag is None or end <= start else tag["label"]
            continues = open_ is not None and open_.label == label
            if open_ is not None and continues and tag is not None:
                # A word split into tokens is one entity, whatever the tags of its tokens.
                continues = tag["place"] not in ("B", "S", "U") or start == open_.end
            if open_ is not None and continues:
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
        TargetError: it does not exist, does not classify tokens, or has no fast tokenizer.
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
        raise refusal(
            name,
            "is not a token classification model with a fast tokenizer that pads; "
            "sensitive.entity_model needs one",
        )
    weights = [digest for file, digest in files.items() if file.endswith(".safetensors")]
    about = f"{name}, weights {', '.join(digest[:16] for digest in weights)}"
    return EntityModel(model.to(device).eval(), tokenizer, about)
