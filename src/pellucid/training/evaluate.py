"""How well a model does what it was trained for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from pellucid.config.run import Causal, Objective
from pellucid.data.batch import Batch
from pellucid.data.corpus import Corpus, Examples, Pair
from pellucid.data.files import Document, pieces
from pellucid.data.tokenizers import Tokenizer
from pellucid.models.build import Model
from pellucid.models.decoder import Decoder
from pellucid.training.distributed import ALONE, World
from pellucid.training.objectives import Criterion
from pellucid.training.precision import products


@dataclass(frozen=True)
class Evaluation:
    """Mean negative log-likelihood in nats per label, share of labels with the highest score, how many labels."""

    loss: float
    accuracy: float
    count: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700))

    def bits_per_byte(self, num_bytes: int) -> float:
        """All the bits of a text over its bytes: comparable between tokenizers."""
        return self.loss * self.count / math.log(2) / num_bytes

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"loss": self.loss, "perplexity": self.perplexity, "accuracy": self.accuracy, "count": self.count}


@torch.no_grad()
def evaluate(
    model: Model,
    batches: Iterable[Batch],
    objective: Objective,
    precision: str = "float32",
    *,
    world: World = ALONE,
    criterion: nn.Module | None = None,
) -> Evaluation:
    """Every batch once, without dropout and without smoothing; ``world`` and ``criterion`` as for training."""
    was_training = model.training
    model.eval()
    criterion = Criterion(model, objective) if criterion is None else criterion
    sums = torch.zeros(3, dtype=torch.float64)  # nats, hits, labels
    for batch in batches:
        with products(model.device, precision):
            loss = criterion(world.share(batch).to(model.device))
        sums += torch.tensor([loss.nats.item(), loss.correct.item(), loss.num_labels], dtype=torch.float64)
    world.split_again(criterion)
    model.train(was_training)
    nats, correct, count = world.total(sums).tolist()
    return Evaluation(nats / max(count, 1), correct / max(count, 1), int(count))


def quality(
    model: Model,
    corpus: Corpus,
    tokenizer: Tokenizer,
    objective: Objective,
    examples: Examples,
    evaluation: Evaluation,
    write: Callable[[list[str]], list[str]],
) -> dict[str, Any]:
    """The figures of a model by name: those of an evaluation, and what else goes with the kind of data.

    Args:
        examples: of the corpus; of a text, those that were evaluated.
        write: the target of each source.
    """
    figures = evaluation.as_dict()
    asks_all = isinstance(objective, Causal) and not objective.separate_documents  # else first tokens are not asked for
    if corpus.kind == "text" and isinstance(model, Decoder) and asks_all:
        documents = cast("Sequence[Document]", examples)
        if _gives_back(tokenizer, documents):
            figures["bits_per_byte"] = evaluation.bits_per_byte(text_bytes(documents))
    if corpus.kind == "pairs":
        pairs = cast("Sequence[Pair]", examples)
        moses = corpus.split_by_moses and corpus.split_by_moses.target
        written = write([pair.source for pair in pairs])
        figures |= translation_scores(written, [pair.target for pair in pairs], split_by_moses=moses)
    return figures


def _gives_back(tokenizer: Tokenizer, documents: Iterable[Document]) -> bool:
    """Whether the tokens say the whole text: where capitals or spaces are lost, not all its bytes were paid for."""
    texts = (piece for document in documents for piece in pieces(document))
    return all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)


def text_bytes(documents: Iterable[Document]) -> int:
    """The length of a text in bytes of UTF-8."""
    return sum(len(piece.encode()) for document in documents for piece in pieces(document))


def translation_scores(
    hypotheses: list[str], references: list[str], *, split_by_moses: str | None = None
) -> dict[str, Any]:
    """Corpus BLEU (Papineni et al. 2002) and chrF (Popović 2015) by sacreBLEU, each with its signature.

    Args:
        hypotheses: what was written.
        references: what should have been.
        split_by_moses: the language of texts that stand as the Moses tokenizer splits them. For these ``bleu`` takes
            the tokens as they are, as papers on such data do, and ``bleu_detokenized`` and chrF are of text put
            together again. The first two cannot be compared with each other.
    """
    from sacrebleu import BLEU, CHRF

    def score(metric: BLEU | CHRF, hypotheses: list[str], references: list[str]) -> dict[str, Any]:
        result = metric.corpus_score(hypotheses, [references])
        return {"score": result.score, "signature": str(metric.get_signature())}

    exact = sum(h.strip() == r.strip() for h, r in zip(hypotheses, references, strict=True)) / max(len(references), 1)
    if split_by_moses is None:
        bleu = {"bleu": score(BLEU(), hypotheses, references)}
    else:
        bleu = {"bleu": score(BLEU(tokenize="none", force=True), hypotheses, references)}
        hypotheses, references = (_put_together(texts, split_by_moses) for texts in (hypotheses, references))
        bleu["bleu_detokenized"] = score(BLEU(), hypotheses, references)
    return {**bleu, "chrf": score(CHRF(), hypotheses, references), "exact": exact}


def _put_together(texts: list[str], language: str) -> list[str]:
    """Undoes the Moses tokenizer."""
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(lang=language)
    return [detokenizer.detokenize(text.split()) for text in texts]
