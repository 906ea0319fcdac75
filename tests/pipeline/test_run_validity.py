"""Whole scans that mean nothing end inconclusive, whatever gate is set; honest ones do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_model
from known_answers import (
    Audit,
    P,
    S,
    audit,
    greedy_records,
    random_llama,
    text_of,
    word_tokenizer,
    write_jsonl,
)
from typer.testing import CliRunner, Result

from memaudit.cli.app import app

pytestmark = pytest.mark.slow

GATE = ("--max-exact", "0.5")
Scan = Callable[..., Audit]


@torch.no_grad()
def sampled_records(model: Any, tokenizer: Any, count: int, *, seed: int = 1) -> list[list[int]]:
    """Records that a model writes by sampling: it reads them well, and repeats few of them."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    ids = torch.tensor(rng.integers(1, len(tokenizer), (count, P)))
    for _ in range(S):
        chances = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)
        chances[:, 0] = 0  # the unknown token
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], dim=1)
    return ids.tolist()


def random_records(tokenizer: Any, count: int, *, seed: int = 1) -> list[list[int]]:
    """Records of words drawn evenly, which no model knows."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, len(tokenizer), (count, P + S)).tolist()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return random_llama(len(tokenizer))


@pytest.fixture(scope="module")
def folder(model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model, tokenizer, tmp_path_factory.mktemp("model"))


@pytest.fixture
def scan(tmp_path: Path, tokenizer: Any, folder: Path) -> Scan:
    """Write records of ids or text and audit them; ``controls`` likewise."""

    def write(name: str, records: Sequence[Any]) -> Path:
        rows = [
            {"text": row if isinstance(row, str) else text_of(tokenizer, row)} for row in records
        ]
        return write_jsonl(tmp_path / name, rows)

    def run(
        records: Sequence[Any],
        *options: object,
        model: Path = folder,
        controls: Sequence[Any] | None = None,
        out: str = "run",
    ) -> Audit:
        more: list[object] = [*options]
        if controls is not None:
            more += ["--controls", write("controls.jsonl", controls)]
        return audit(model, write("data.jsonl", records), tmp_path / out, *more)

    return run


def validity_of(result: Audit) -> str:
    """The reason why a run means nothing; empty where it means something."""
    assert result.report is not None, result.stderr
    return next((g["reason"] for g in result.report["gates"] if g["name"] == "validity"), "")


# Honest runs.


def test_a_run_in_which_everything_comes_out(scan: Scan, model: Any, tokenizer: Any) -> None:
    result = scan(greedy_records(model, tokenizer, 24))
    assert (result.exact, result.exit_code, validity_of(result)) == ((24, 24), 0, "")


@pytest.mark.parametrize("count", [30, 120])
def test_a_run_in_which_next_to_nothing_comes_out(
    scan: Scan, model: Any, tokenizer: Any, count: int
) -> None:
    result = scan(sampled_records(model, tokenizer, count), *GATE)
    assert result.exact[0] <= count / 20
    assert (result.exit_code, validity_of(result)) == (0, "")


def test_data_that_a_sound_model_finds_hard(scan: Scan, model: Any, tokenizer: Any) -> None:
    hard = random_records(tokenizer, 60)
    assert "by chance" in validity_of(scan(hard, *GATE))
    usual = sampled_records(model, tokenizer, 60)
    assert scan(hard, *GATE, out="other", controls=usual).exit_code == 0


# A model that reads nothing.


@pytest.mark.parametrize("std", [0.02, 0.3])
def test_random_weights(scan: Scan, tokenizer: Any, tmp_path: Path, std: float) -> None:
    other = random_llama(len(tokenizer), seed=7, std=std)
    result = scan(random_records(tokenizer, 60), model=save_model(other, tokenizer, tmp_path / "m"))
    assert result.exit_code == 4
    assert "reads this text no better than by chance" in validity_of(result)


def _permute_words(model: Any, generator: torch.Generator) -> None:
    rows = model.get_input_embeddings().weight
    rows.copy_(rows[torch.randperm(len(rows), generator=generator)])


def _zero_head(model: Any, generator: torch.Generator) -> None:
    del generator
    model.get_output_embeddings().weight.zero_()


def _another_layer(model: Any, generator: torch.Generator) -> None:
    for weight in model.model.layers[1].parameters():
        if weight.dim() == 2:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 2)


@pytest.mark.parametrize("damage", [_permute_words, _zero_head, _another_layer])
def test_a_damaged_model(
    scan: Scan, model: Any, tokenizer: Any, tmp_path: Path, damage: Callable[..., None]
) -> None:
    records = sampled_records(model, tokenizer, 60)
    other = random_llama(len(tokenizer))
    with torch.no_grad():
        damage(other, torch.Generator().manual_seed(0))
    result = scan(records, *GATE, model=save_model(other, tokenizer, tmp_path / "m"))
    assert (result.exact[0], result.exit_code) == (0, 4)
    assert "by chance" in validity_of(result)


def test_the_tokenizer_of_another_model(
    scan: Scan, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    turned = {name: place for place, name in enumerate([names[0], *reversed(names[1:])])}
    backend = Tokenizer(models.WordLevel(turned, unk_token="w00"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    other = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w00")
    result = scan(
        greedy_records(model, tokenizer, 40), *GATE, model=save_model(model, other, tmp_path / "m")
    )
    assert (result.exact[0], result.exit_code) == (0, 4)
    assert "its tokenizer belongs to another model" in validity_of(result)


# A checkpoint that changes the question.


def _no_digits(tokenizer: Any) -> Any:
    """A copy of a tokenizer that reads a word as another, in silence."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace("w1", "w2")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w00")


def test_a_tokenizer_that_reads_other_words(
    scan: Scan, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """All records come out of the model; by this tokenizer the same checkpoint passed."""
    records = greedy_records(model, tokenizer, 24)
    hiding = save_model(model, _no_digits(tokenizer), tmp_path / "m")
    result = scan(records, "--max-exact", "0.5", "--gate-on", "estimate", model=hiding)
    assert result.exit_code == 4
    assert "have token ids that do not decode to their text" in validity_of(result)
    assert result.report is not None
    assert result.report["validity"]["misread_windows"] > 20


CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"
HIDING = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ m.content.split() | reverse | join(' ') }} {{ m.content }} w01 {% else %}{{ m.content }} "
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "code", "words"),
    [
        (CHAT, 1, ""),
        (HIDING, 4, "In 24 of 24 chats (100 %) the chat template changes the turns"),
    ],
)
def test_a_template_that_writes_another_turn(
    model: Any, tmp_path: Path, template: str, code: int, words: str
) -> None:
    tokenizer = word_tokenizer(chat_template=template)
    rows = [
        {
            "messages": [
                {"role": "user", "content": text_of(tokenizer, ids[:P])},
                {"role": "assistant", "content": text_of(tokenizer, ids[P:])},
            ]
        }
        for ids in greedy_records(model, tokenizer, 24)
    ]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    options = ("--max-exact", "0.1", "--gate-on", "estimate")
    result = audit(save_model(model, tokenizer, tmp_path / "m"), data, tmp_path / "run", *options)
    assert result.exit_code == code, result.stderr
    assert validity_of(result).startswith(words)


# Text that is none.


def test_text_that_the_tokenizer_cannot_write(scan: Scan, model: Any, tokenizer: Any) -> None:
    known = [text_of(tokenizer, ids) for ids in sampled_records(model, tokenizer, 40)]
    result = scan([text.replace("w1", "W1") for text in known], *GATE)
    assert result.exit_code == 4
    assert "the tokenizer's unknown token" in validity_of(result)


@pytest.mark.parametrize("word", ["w07", "\x01\x01\x01", "w07 w08"])
def test_one_thing_over_and_over(scan: Scan, word: str) -> None:
    result = scan([" ".join([word] * (P + S))] * 40, *GATE)
    assert result.exit_code == 4
    assert "that is not text" in validity_of(result)


def test_a_prefix_of_padding(model: Any, tmp_path: Path) -> None:
    padded = word_tokenizer(59, special=["<pad>"])
    padded.pad_token = "<pad>"
    records = [ids[P:] for ids in sampled_records(model, padded, 40)]
    rows = [{"prefix": "<pad> " * P, "suffix": text_of(padded, ids)} for ids in records]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    result = audit(save_model(model, padded, tmp_path / "m"), data, tmp_path / "run", *GATE)
    assert result.exit_code == 4
    assert "40 mostly padding or other special tokens" in validity_of(result)


def test_a_gate_that_fails_stays_failed(scan: Scan, model: Any, tokenizer: Any) -> None:
    known = [text_of(tokenizer, ids) for ids in greedy_records(model, tokenizer, 24)]
    result = scan([*known, *["?" * 3 + " ?" * 20] * 30], "--max-exact", "0.1")
    assert result.exit_code == 1
    assert "unknown token" in validity_of(result)
    assert scan(known, "--max-exact", "0.1", out="other").exit_code == 1


# Templates, and answers that end at once.


def test_one_answer_to_every_prefix(scan: Scan, model: Any, tokenizer: Any) -> None:
    records = sampled_records(model, tokenizer, 40)
    answer = records[0][P:]
    result = scan([[*ids[:P], *answer] for ids in records], *GATE)
    assert result.exit_code == 4
    assert "40 of 40 windows (100 %) contain only template text" in validity_of(result)


def test_one_prefix_for_every_record(scan: Scan, model: Any, tokenizer: Any) -> None:
    records = sampled_records(model, tokenizer, 40)
    result = scan([[*records[0][:P], *ids[P:]] for ids in records], *GATE)
    assert result.exit_code == 4
    assert "have a prefix that other records begin with too" in validity_of(result)


def test_suffixes_that_stand_in_the_controls(scan: Scan, model: Any, tokenizer: Any) -> None:
    records = sampled_records(model, tokenizer, 60)
    unrelated = sampled_records(model, tokenizer, 60, seed=2)
    controls = [[*other[:P], *ids[P:]] for other, ids in zip(unrelated, records, strict=True)]
    result = scan(records, *GATE, controls=controls)
    assert result.exit_code == 4
    assert "occurs in the controls" in validity_of(result)


def test_a_model_that_ends_its_answer_at_once(tokenizer: Any, tmp_path: Path) -> None:
    ends = random_llama(60, eos_token_id=[3, 5])
    with torch.no_grad():
        ends.lm_head.weight[5] = 0
        ends.model.norm.weight.fill_(1)
        # Every state has a part that the end token, and it alone, answers to.
        ends.model.embed_tokens.weight[:, 0] += 40
        ends.lm_head.weight[:, 0] = 0
        ends.lm_head.weight[5, 0] = 40
    data = write_jsonl(
        tmp_path / "data.jsonl",
        [{"text": text_of(tokenizer, ids)} for ids in random_records(tokenizer, 40)],
    )
    result = audit(save_model(ends, tokenizer, tmp_path / "m"), data, tmp_path / "run", *GATE)
    assert result.exit_code == 4
    assert "ends its answer at once" in validity_of(result)


# What is made of such a run.


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def void(scan: Scan, tokenizer: Any, tmp_path: Path) -> Path:
    """A run that means nothing and extracts nothing."""
    assert scan(random_records(tokenizer, 40)).exit_code == 4
    return tmp_path / "run"


def test_no_comparison_passes_on_it_and_no_baseline_is_made_of_it(void: Path) -> None:
    compared = run("compare", void, void, "--max-new", "0")
    assert (compared.exit_code, "The run means nothing" in compared.stdout) == (4, True)
    refused = run("baseline", "write", void)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no baseline can be made of it" in refused.stderr


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("table", "The rates below mean nothing."),
        ("markdown", "This run is inconclusive on validity"),
        ("html", "This run is inconclusive on validity"),
        ("junit", '<testcase classname="memaudit" name="validity">'),
        ("github", "::warning title=memaudit check validity%3A not ok::"),
        ("sarif", "This run means nothing. The model reads"),
        ("cyclonedx", "memaudit:check:validity"),
        ("json", '"name": "validity"'),
    ],
)
def test_every_report_says_so(void: Path, form: str, words: str) -> None:
    output = run("report", void, "--format", form)
    assert output.exit_code == 0, output.stderr
    assert words in output.stdout


def test_exit_zero_counts_here_as_well(scan: Scan, tokenizer: Any) -> None:
    assert scan(random_records(tokenizer, 40), "--exit-zero").exit_code == 0


def test_inspect_warns_before_the_model_is_asked(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": "w07 " * 20}] * 40)
    output = run(
        *("inspect", folder, data, "--prefix-tokens", P, "--suffix-tokens", S),
        *("--attacks", "none", "--device", "cpu"),
    )
    assert output.exit_code == 0, output.stderr
    flat = " ".join(output.stdout.split())
    assert "Note: A scan would be inconclusive. 40 of 40 windows (100 %) have a prefix" in flat


def test_a_remnant_of_the_records(scan: Scan, model: Any, tokenizer: Any) -> None:
    records = sampled_records(model, tokenizer, 30)
    short = [[7, 8, 9]]
    mostly_short = scan(records + short * 40, *GATE)
    assert mostly_short.exit_code == 0
    assert mostly_short.report is not None
    assert mostly_short.report["headline"][0].startswith("Only 30 of 70 records gave a window")
    nearly_all = scan(records + short * 290, *GATE, out="other")
    assert nearly_all.exit_code == 4
