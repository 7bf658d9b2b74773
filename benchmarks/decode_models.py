"""The models and inputs of ``decode.py``: made once as folders for Hugging Face's libraries, read by every engine.

Random weights say how fast an engine is where the length is forced, and whether two engines choose the same tokens. How
long texts become, and what int8 does to them, only a trained model says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from safetensors import safe_open
from tokenizers import models, pre_tokenizers, processors

Task = Literal["gpt2", "translation", "embeddings"]
TASKS: tuple[Task, ...] = ("gpt2", "translation", "embeddings")
BEAMS, LONGEST = 4, 100
MODEL, CASES = "hf", "cases.json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked of an engine at once.

    Attributes:
        rows: tokens to go on from, or to translate; texts to embed.
        batch: how many rows the engine works on together.
        new: how many tokens are written, or at most for a translation.
        ordered: by length, longest first; else as they come.
    """

    name: str
    rows: list[Any]
    batch: int
    new: int = 0
    beams: int = 1
    ordered: bool = True

    def chunks(self) -> list[list[int]]:
        """The places of the rows of each batch."""
        places = list(range(len(self.rows)))
        if self.ordered:
            places.sort(key=lambda i: -len(self.rows[i]))
        return [places[i : i + self.batch] for i in range(0, len(places), self.batch)]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the models are and how much they are asked."""

    width: int
    layers: int
    heads: int
    vocabulary: int
    new: int = 64
    prompts: tuple[int, ...] = (8, 128)
    batches: tuple[int, ...] = (1, 8, 32)
    rows: int = 128
    longest: int = 512


SIZES: Mapping[Task, Size] = {
    "gpt2": Size(width=768, layers=12, heads=12, vocabulary=50_257),
    "translation": Size(width=512, layers=6, heads=8, vocabulary=8000, rows=64),
    "embeddings": Size(width=384, layers=6, heads=12, vocabulary=30_522),
}
TINY: Mapping[Task, Size] = {
    "gpt2": Size(width=64, layers=2, heads=4, vocabulary=997, new=16, prompts=(8, 16), batches=(1, 4)),
    "translation": Size(width=64, layers=2, heads=4, vocabulary=300, new=16, rows=40),
    "embeddings": Size(width=48, layers=2, heads=4, vocabulary=500, rows=40, longest=80),
}


def cases_in(folder: Path) -> list[Case]:
    """What was written beside a model."""
    return [Case(**case) for case in json.loads((folder / CASES).read_text())]


def _write(folder: Path, cases: Sequence[Case]) -> None:
    (folder / CASES).write_text(json.dumps([asdict(case) for case in cases]))


def make(task: Task, folder: Path, size: Size) -> None:
    """Writes a random model, its tokenizer and its cases."""
    torch.manual_seed(0)
    (folder / MODEL).mkdir(parents=True)
    {"gpt2": _gpt2, "translation": _translation, "embeddings": _embeddings}[task](folder, size)


def _words(vocabulary: int, special: Sequence[str], unknown: str) -> tokenizers.Tokenizer:
    """A word a token: special ones first, then ``w5``, ``w6`` and so on, each at the id it names."""
    names = [*special, *(f"w{i}" for i in range(len(special), vocabulary))]
    raw = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=unknown))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(list(special))
    return raw


# ---- a decoder -----------------------------------------------------------------------------------


def _gpt2(folder: Path, size: Size) -> None:
    """A GPT-2 whose end token is in no prompt, and whose weights are large enough for it not to repeat itself."""
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    special = ("<|endoftext|>", "<unk>")
    raw = _words(size.vocabulary, special, "<unk>")
    settings = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=max(1024, max(size.prompts) + size.new),
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    model = GPT2LMHeadModel(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ".h." in name:
                parameter.mul_(3.0)
    model.save_pretrained(folder / MODEL)
    names = {"unk_token": "<unk>", "bos_token": special[0], "eos_token": special[0]}
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(folder / MODEL)
    draw = random.Random(0)
    cases = []
    for length in size.prompts:
        for batch in size.batches:
            rows = [[draw.randrange(len(special), size.vocabulary) for _ in range(length)] for _ in range(batch)]
            cases.append(Case(name=f"prompt {length}, batch {batch}", rows=rows, batch=batch, new=size.new))
    _write(folder, cases)


# ---- an encoder and decoder ----------------------------------------------------------------------


def _translation(folder: Path, size: Size) -> None:
    """A model of ours, written as ``convert --to hf`` writes it; it hardly ever ends by itself."""
    from pellucid.config.model import EncoderDecoder, Tokens
    from pellucid.config.parts import Attention, FeedForward, Sinusoidal, Stack
    from pellucid.data import Tokenizer
    from pellucid.data.published import write_tokenizer
    from pellucid.models.build import build
    from pellucid.models.foreign.export import write_published

    tokenizer = Tokenizer(_words(size.vocabulary, ("<pad>", "<unk>", "<s>", "</s>"), "<unk>"))
    stack = Stack(
        d_model=size.width,
        num_layers=size.layers,
        attention=Attention(num_heads=size.heads),
        feed_forward=FeedForward(d_ff=4 * size.width),
        positions=Sinusoidal(),
    )
    front = Tokens(vocab_size=size.vocabulary, scaled=True)
    model = build(EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack)).eval()
    write_published(folder / MODEL, model, write_tokenizer(folder / MODEL, tokenizer, "encoder_decoder", None))
    draw = random.Random(0)
    lengths = [max(4, min(50, round(draw.lognormvariate(2.6, 0.4)))) for _ in range(size.rows)]  # as of captions
    rows = [[*(draw.randrange(4, size.vocabulary) for _ in range(length)), 3] for length in lengths]
    _write(folder, _translating(rows, min(32, size.rows), size.new))


def _translating(rows: list[list[int]], batch: int, new: int) -> list[Case]:
    """A few sentences one by one, then all of them in batches, sorted and not."""
    common = {"new": new, "beams": BEAMS}
    return [
        Case(name="one by one", rows=rows[: min(8, len(rows))], batch=1, ordered=False, **common),
        Case(name=f"batches of {batch} as they come", rows=rows, batch=batch, ordered=False, **common),
        Case(name=f"batches of {batch} by length", rows=rows, batch=batch, **common),
    ]


def trained(run: str, source: Path, folder: Path, sentences: int) -> list[Case]:
    """Writes a trained model and the cases of timing it; returns the case of translating all of the source."""
    from pellucid.models.convert import convert
    from pellucid.models.load import load

    convert(run, folder / MODEL, "hf")
    tokenizer = load(folder / MODEL).tokenizer
    rows = [tokenizer.source(ids) for ids in tokenizer.encode_batch(source.read_text().splitlines())]
    _write(folder, _translating(rows[:sentences], 32, LONGEST))
    return [Case(name="all", rows=rows, batch=32, new=LONGEST, beams=BEAMS)]


# ---- an encoder ----------------------------------------------------------------------------------


def _embeddings(folder: Path, size: Size) -> None:
    """A BERT of MiniLM's shape with sentence-transformers' files; a text has as many tokens as words, and two more."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    raw = _words(size.vocabulary, special, "[UNK]")
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    settings = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        max_position_embeddings=512,
    )
    place = folder / MODEL
    BertModel(settings, add_pooling_layer=False).save_pretrained(place)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=512, **names).save_pretrained(place)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))
    for path in ("1_Pooling", "2_Normalize"):
        (place / path).mkdir()
    pooling = {"word_embedding_dimension": size.width, "pooling_mode_mean_tokens": True}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    draw = random.Random(0)
    lengths = [draw.randint(16, size.longest) - 2 for _ in range(size.rows)]
    texts = [" ".join(f"w{draw.randrange(5, size.vocabulary)}" for _ in range(length)) for length in lengths]
    short = [" ".join(text.split()[:62]) for text in texts]
    _write(
        folder,
        [
            Case(name=f"16–{size.longest} tokens", rows=texts, batch=32),
            Case(name="16–64 tokens", rows=short, batch=32),
            Case(name="16–64 tokens, one by one", rows=short[: min(32, len(short))], batch=1, ordered=False),
        ],
    )


# ---- what a step reads and computes --------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """Parameters that a step reads: of the layers and of the head; layers and their width."""

    body: int
    head: int
    layers: int
    width: int

    def step_bytes(self, case: Case, weight: int, length: float, source: float = 0.0) -> float:
        """Weights once, float32 keys and values of every row, those of a source once a sentence."""
        cache = 4 * 2 * self.layers * self.width
        rows = min(case.batch, len(case.rows))
        return weight * (self.body + self.head) + rows * cache * (case.beams * length + source)

    def step_flops(self, case: Case, length: float, source: float = 0.0) -> float:
        """Two for each weight and row, and the scores and contexts of attention."""
        rows = case.beams * min(case.batch, len(case.rows))
        return 2 * rows * (self.body + self.head) + 4 * rows * self.layers * self.width * (length + source)

    def reading_flops(self, lengths: Sequence[int]) -> float:
        """Of an encoder that reads texts of these lengths, without padding."""
        return sum(2 * self.body * n + 4 * self.layers * self.width * n**2 for n in lengths)


def costs(task: Task, folder: Path) -> Costs:
    """Of the model in a folder; keys and values of a source are projected once, so their weights do not count."""
    told = json.loads((folder / MODEL / "config.json").read_text())
    with safe_open(folder / MODEL / "model.safetensors", "pt") as file:
        sizes = {name: prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    part = {"gpt2": "h.", "translation": "decoder.layers.", "embeddings": "encoder.layer."}[task]
    once = ("encoder_attn.k_proj", "encoder_attn.v_proj")
    body = sum(
        size for name, size in sizes.items() if part in name and not any(projected in name for projected in once)
    )
    width = told.get("n_embd") or told.get("d_model") or told["hidden_size"]
    layers = told.get("n_layer") or told.get("decoder_layers") or told["num_hidden_layers"]
    head = 0 if task == "embeddings" else told["vocab_size"] * width
    return Costs(body, head, layers, width)
