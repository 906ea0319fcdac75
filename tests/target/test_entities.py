"""A token classification model with known marks: it has no layer, and each token its own tag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, build_model, build_tokenizer, save_model

from memaudit.errors import TargetError
from memaudit.sensitive.counting import count_content
from memaudit.sensitive.detectors import make_detectors
from memaudit.sensitive.entities import category_of, entity_detectors
from memaudit.target.entities import load_entity_model

CPU = torch.device("cpu")
TAGS = ["O", "B-PER", "I-PER", "B-STREET"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marks ``@`` as the start of a name, ``~`` as its going on, ``#`` as a street."""
    from transformers import BertConfig, BertForTokenClassification

    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: number for number, tag in enumerate(TAGS)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.embeddings.LayerNorm.weight.fill_(1)
        table = model.bert.embeddings.word_embeddings.weight
        table[:, 0] = 1
        for number, sign in enumerate("@~#", 1):
            (token,) = tokenizer(sign, add_special_tokens=False)["input_ids"]
            table[token] = torch.eye(8)[number]
        model.classifier.weight[:, : len(TAGS)] = torch.eye(len(TAGS))
    return save_model(model, tokenizer, tmp_path_factory.mktemp("entities") / "model")


def test_what_follows_is_joined(folder: Path) -> None:
    found = load_entity_model(str(folder), True, CPU)
    assert found.labels == {"PER", "STREET"}
    marked = found.find(["a @~~ b @ #", "@~ @", "nothing", ""])
    assert [[tuple(one) for one in text] for text in marked] == [
        [("PER", 2, 5), ("PER", 8, 9), ("STREET", 10, 11)],
        [("PER", 0, 2), ("PER", 3, 4)],
        [],
        [],
    ]


def test_names_and_addresses_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.target.entities._BATCH", 2)
    model = load_entity_model(str(folder), True, CPU)
    more = entity_detectors(model.labels, model.find, model.about)
    assert [one.category for one in more] == ["name", "address"]
    assert more[0].method.startswith(f"labels PER of {folder}, weights ")
    detectors = (*make_detectors("US", packages=False), *more)
    texts = ["q @~ # #", "ann@b.example", "-", "@ @ @"]
    rows = np.array([[0], [1], [2], [3]], dtype=np.int32)
    decode = lambda ids: [texts[row[-1]] if len(row) else "" for row in ids]  # noqa: E731
    counts = count_content(rows, rows[:, :0], decode, detectors)
    # The @ of an e-mail address is marked as a name, and claimed by the address.
    assert counts[:, [1, -2, -1]].tolist() == [
        [0, 1, 2],
        [1, 0, 0],
        [0, 0, 0],
        [0, 3, 0],
    ]


def test_a_long_text_is_looked_at_as_far_as_it_fits(folder: Path) -> None:
    model = load_entity_model(str(folder), True, CPU)
    assert len(model.find(["@ " * 500])[0]) == 32


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "model")
    with pytest.raises(TargetError, match="is not a token classification model"):
        load_entity_model(str(tmp_path / "model"), True, CPU)
    with pytest.raises(TargetError):
        load_entity_model(str(tmp_path / "nothing"), True, CPU)


@pytest.mark.parametrize(
    ("label", "category"),
    [
        *[("PER", "name"), ("PERSON", "name"), ("GIVENNAME", "name"), ("first_name", "name")],
        *[("PRIVATE_PERSON_NAME", "name"), ("STREET", "address"), ("street_address", "address")],
        *[("ADDRESS", "address"), ("LOC", None), ("ORG", None), ("EMAIL_ADDRESS", None)],
        *[("IP_ADDRESS", None), ("USERNAME", None), ("COMPANY_NAME", None), ("PERCENT", None)],
    ],
)
def test_what_labels_mean(label: str, category: str | None) -> None:
    assert category_of(label) == category
