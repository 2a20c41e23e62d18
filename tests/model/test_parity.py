"""A tiny random Hugging Face OpenAIGPTLMHeadModel is the oracle: same logits, loss, gradients and texts."""

import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from conftest import generate_ids
from gpt1.batch import IGNORE, Batch
from gpt1.config import Columns, Model
from gpt1.data.collate import Example, collate
from gpt1.model.gpt import GPT
from gpt1.model.objectives import LanguageModel, TaskModel
from gpt1.model.sampling import Sampling, penalised, probabilities
from gpt1.run_folder.folder import load_run, save_run
from gpt1.run_folder.hugging_face import CHOICE_HEAD, HEAD, TRANSPOSED, from_hf, hf_name
from gpt1.run_folder.metadata import RunMetadata
from gpt1.run_folder.shape import CHOICE_BIAS, from_hf_config
from gpt1.tokenizer.tokenizer import Tokenizer
from gpt1.tokenizer.train_bpe import train

transformers = pytest.importorskip("transformers")

TEXTS = ["Once upon a time there was a cat.", "The cat sat; the dog ran. " * 20, "Été, 春 and\n\ttabs  ."]


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(5)
    config = transformers.OpenAIGPTConfig(
        vocab_size=61, n_positions=20, n_embd=32, n_layer=3, n_head=4, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.OpenAIGPTLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # As after training: gains and biases that are not 1 and 0, weights that make the attention choose.
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.2) + (parameter == 1))
    return model


@pytest.fixture(scope="module")
def ours(theirs: torch.nn.Module) -> GPT:
    body = GPT(from_hf_config(theirs.config.to_dict(), "config.json"))
    assert from_hf(body, untied(theirs), "model") is None
    return body.eval()


def untied(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


@pytest.fixture
def tokens_NT() -> torch.Tensor:
    return torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(8))


@torch.no_grad()
def test_logits(ours: GPT, theirs: torch.nn.Module, tokens_NT: torch.Tensor) -> None:
    expected = theirs(tokens_NT).logits
    assert expected.std() > 0.5
    assert torch.allclose(ours.logits(ours(tokens_NT)), expected, atol=1e-5, rtol=0)


def test_loss_and_the_gradient_of_every_parameter(ours: GPT, theirs: torch.nn.Module, tokens_NT: torch.Tensor) -> None:
    theirs.zero_grad()
    expected = theirs(tokens_NT, labels=tokens_NT).loss
    expected.backward()
    targets_NT = F.pad(tokens_NT[:, 1:], (0, 1), value=IGNORE)
    batch = Batch(tokens_NKT=tokens_NT[:, None], targets_NKT=targets_NT[:, None])
    ours.zero_grad()
    loss = LanguageModel(ours)(batch)["lm"] / LanguageModel.counts(batch)["lm"]
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected_grad = gradients.pop(hf_name(name))
        if name.endswith(TRANSPOSED):
            expected_grad = expected_grad.T
        assert torch.allclose(parameter.grad, expected_grad, atol=1e-5), name
    assert not gradients


@torch.no_grad()
def test_greedy_text(ours: GPT, theirs: torch.nn.Module, tokens_NT: torch.Tensor) -> None:
    prompts = [tokens_NT[0, :4].tolist(), tokens_NT[1, :1].tolist(), tokens_NT[2, :9].tolist()]
    streams = [random.Random(0)] * 3
    rows = list(zip(*generate_ids(ours, prompts, Sampling(temperature=0), streams, 10), strict=True))
    for prompt, row in zip(prompts, rows, strict=True):
        written = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert list(row) == written[0, len(prompt) :].tolist()


MANNERS = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(top_k=7),
    Sampling(top_p=0.8),
    Sampling(repetition_penalty=1.4),
    Sampling(temperature=1.7, top_k=20, top_p=0.9, repetition_penalty=1.2),
]


@torch.no_grad()
@pytest.mark.parametrize("manner", MANNERS, ids=str)
def test_the_distribution_that_is_drawn_from(
    manner: Sampling, theirs: torch.nn.Module, tokens_NT: torch.Tensor
) -> None:
    """Against transformers' own processors, in the order in which its `generate` applies them."""
    logits_NV = theirs(tokens_NT).logits[:, -1]
    processors = [transformers.RepetitionPenaltyLogitsProcessor(manner.repetition_penalty)]
    processors += [transformers.TemperatureLogitsWarper(manner.temperature)]
    processors += [transformers.TopKLogitsWarper(manner.top_k)] if manner.top_k else []
    processors += [transformers.TopPLogitsWarper(manner.top_p)] if manner.top_p < 1 else []
    expected_NV = transformers.LogitsProcessorList(processors)(tokens_NT, logits_NV.clone()).softmax(-1)
    seen_NV = torch.zeros(3, 61, dtype=torch.bool).scatter_(1, tokens_NT, True)
    found_NV = probabilities(penalised(logits_NV, seen_NV, manner.repetition_penalty), manner)
    assert torch.equal(found_NV == 0, expected_NV == 0)
    assert torch.allclose(found_NV.float(), expected_NV, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("manner", MANNERS, ids=str)
def test_drawn_text(
    manner: Sampling, ours: GPT, theirs: torch.nn.Module, tokens_NT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same noise, the same text: transformers' `generate` draws each token by our random numbers."""

    def draw(p_NV: torch.Tensor, num_samples: int, **_: object) -> torch.Tensor:
        assert num_samples == len(p_NV) == 1
        return torch.searchsorted(p_NV.double().cumsum(-1), torch.tensor([[noise.random()]], dtype=torch.float64))

    monkeypatch.setattr(torch, "multinomial", draw)
    prompts = [tokens_NT[0, :4].tolist(), tokens_NT[1, :1].tolist(), tokens_NT[2, :9].tolist()]
    streams = [random.Random(n) for n in range(3)]
    rows = list(zip(*generate_ids(ours, prompts, manner, streams, 11), strict=True))
    for n, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        noise = random.Random(n)
        written = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=11, do_sample=True, pad_token_id=0, eos_token_id=None,
            temperature=manner.temperature, top_k=manner.top_k or None, top_p=manner.top_p,
            repetition_penalty=manner.repetition_penalty,
        )  # fmt: skip
        assert list(row) == written[0, len(prompt) :].tolist()


def test_causality(ours: GPT, tokens_NT: torch.Tensor) -> None:
    """No later token has any influence: the gradient is zero, not small."""
    embedded_TD = ours.tokens.weight[tokens_NT[0]].detach().requires_grad_()
    h_1TD = (embedded_TD + ours.positions.weight)[None]
    for block in ours.blocks:
        h_1TD = block(h_1TD)
    for t in range(20):
        (gradient_TD,) = torch.autograd.grad(ours.logits(h_1TD)[0, t].logsumexp(-1), embedded_TD, retain_graph=True)
        assert not gradient_TD[t + 1 :].any()
        assert (gradient_TD[: t + 1].abs().amax(1) > 0).all()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(TEXTS * 5, "bytes", 300)


def random_body(vocabulary: int) -> GPT:
    model = Model(context=64, width=32, depth=2, heads=4, inner=128, vocabulary=vocabulary)
    return GPT(model).init_weights(torch.Generator().manual_seed(1)).eval()


@pytest.fixture(scope="module")
def run(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, random_body(tokenizer.vocabulary), tokenizer, RunMetadata(kind="pretrained"))
    return folder


@torch.no_grad()
def test_hugging_face_loads_a_run(run: Path) -> None:
    ours = load_run(run)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    theirs, notes = transformers.AutoModelForCausalLM.from_pretrained(run, output_loading_info=True)
    assert not any(notes.values()), notes
    for text in [*TEXTS, "", "<|end|> is text", "naïve 🤗 \u0000"]:
        ids = ours.tokenizer.encode(text)[:64]
        assert their_tokenizer(text, truncation=True)["input_ids"] == ids
        assert their_tokenizer.decode(ids, skip_special_tokens=True) == ours.tokenizer.decode(ids)
        if ids:
            tokens_NT = torch.tensor([ids])
            expected = theirs(tokens_NT).logits
            assert torch.allclose(ours.body.logits(ours.body(tokens_NT)), expected, atol=1e-5, rtol=0)
    assert their_tokenizer.model_max_length == 64
    assert their_tokenizer.eos_token_id == theirs.config.eos_token_id == ours.tokenizer.end_id
    assert their_tokenizer.pad_token_id == theirs.config.pad_token_id == ours.tokenizer.pad_id


def test_hugging_face_writes_the_same_greedy_text(run: Path) -> None:
    writer = transformers.pipeline("text-generation", str(run), device="cpu")
    theirs = writer("The cat", max_new_tokens=20, do_sample=False)[0]["generated_text"]
    sample = load_run(run).generate("The cat", max_new_tokens=20, temperature=0)
    assert sample["tokens"] == 20
    assert theirs.rstrip("\ufffd") == "The cat" + sample["text"]


@torch.no_grad()
def test_hugging_face_classifies_with_a_fine_tuned_run(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer = tokenizer.with_task_tokens()
    body = random_body(tokenizer.vocabulary)
    head = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    labels = ["zebra", "ant", "Mus musculus"]
    facts = RunMetadata(
        kind="finetuned", task="classification", goal="classes", labels=labels, columns=Columns(["text"], ["label"])
    )
    save_run(tmp_path, body, tokenizer, facts, head)
    texts = ["the cat", "", "the dog ran. the dog ran. the dog"]
    assert tokenizer.start_id is not None
    assert tokenizer.extract_id is not None
    rows = [[tokenizer.start_id, *ids, tokenizer.extract_id] for ids in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows])
    model = TaskModel(body, 3)
    model.head.weight.copy_(head)
    extract_NK = torch.tensor([[len(row) - 1] for row in rows])
    expected = model.eval().scores(Batch(tokens[:, None], tokens[:, None], extract_NK=extract_NK))

    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs, notes = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values()), notes
    inputs = their_tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert inputs["input_ids"].tolist() == tokens.tolist()
    assert torch.allclose(theirs(**inputs).logits, expected, atol=1e-5, rtol=0)

    classify = transformers.pipeline("text-classification", str(tmp_path), device="cpu")
    for text, scores_C in zip(texts, expected, strict=True):
        answer = classify(text, truncation=True)[0]
        assert answer["label"] == labels[int(scores_C.argmax())]
        assert answer["score"] == pytest.approx(scores_C.softmax(-1).max().item(), abs=1e-5)
    too_long = their_tokenizer("cat " * 500, truncation=True)["input_ids"]
    assert len(too_long) == 64
    assert too_long[-1] == tokenizer.extract_id, "truncation keeps the extract token"


@pytest.mark.parametrize("goal", ["classes", "choice"])
def test_fine_tuning_has_their_loss_and_gradients(goal: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """L2 of classes, over padded rows; L3 of choices, whose sequences are of one length, as the two count L1 unlike."""
    tokenizer, choice = tokenizer.with_task_tokens(), goal == "choice"
    body, outputs = random_body(tokenizer.vocabulary), 1 if choice else 3
    model = TaskModel(body, outputs, goal).init_head(torch.Generator().manual_seed(2)).eval()  # type: ignore[arg-type]
    names = [] if choice else ["a", "b", "c"]
    facts = RunMetadata(
        kind="finetuned",
        task="classification",
        goal=goal,
        labels=names,
        columns=Columns(["text"], ["label"]),  # type: ignore[arg-type]
    )
    save_run(tmp_path, body, tokenizer, facts, model.head.weight)
    draw = torch.Generator().manual_seed(4)
    lengths = [9] * 4 if choice else [5, 9, 12, 3]
    ids = [torch.randint(250, (2 if choice else 1, length), generator=draw).tolist() for length in lengths]
    labels = [1, 0, 1, 1] if choice else [2, 0, 1, 1]
    batch = collate([Example(*pair) for pair in zip(ids, labels, strict=True)], tokenizer.pad_id, 64)
    sums, counts = model(batch), model.counts(batch)
    loss = sums["task"] / counts["task"] + (0.5 * sums["lm"] / counts["lm"] if choice else 0)
    loss.backward()

    kind = "OpenAIGPTDoubleHeadsModel" if choice else "OpenAIGPTForSequenceClassification"
    theirs = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    assert batch.labels_N is not None
    if choice:
        tokens_NKT = batch.tokens_NKT[..., :9]
        told = theirs(tokens_NKT, mc_token_ids=batch.extract_NK, labels=tokens_NKT, mc_labels=batch.labels_N)
        expected = told.mc_loss + 0.5 * told.loss
    else:
        expected = theirs(batch.tokens_NKT[:, 0], labels=batch.labels_N).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    head = gradients.pop(CHOICE_HEAD if choice else HEAD)
    gradients.pop(CHOICE_BIAS, None)
    assert torch.allclose(model.head.weight.grad, head, atol=1e-5, rtol=0)
    for name, parameter in body.named_parameters():
        grad = parameter.grad.T if name.endswith(TRANSPOSED) else parameter.grad
        assert torch.allclose(grad, gradients.pop(hf_name(name)), atol=1e-5, rtol=0), name
    assert not gradients
