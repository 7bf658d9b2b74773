"""BERT, RoBERTa and DistilBERT: post-norm encoders with learned positions.

Devlin et al. 2019; RoBERTa counts its positions from the padding's id on (Liu et al. 2019); DistilBERT has no token
types and a ReLU before its labels (Sanh et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping

from pellucid.config.model import (
    Classification,
    Embedding,
    Encoder,
    MaskedLanguage,
    Model,
    NormalInit,
    Tied,
    TokenClassification,
    Tokens,
)
from pellucid.config.parts import FeedForward, LayerNorm, Learned, Stack
from pellucid.errors import ConfigError
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES, Settings, written_labels
from pellucid.models.foreign.table import Entry, Table, module, tensor

PURPOSES = ("ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification", "Model")
OLD_NORMS = ((".gamma", ".weight"), (".beta", ".bias"))


def read(folder: Folder) -> Encoder:
    """The config of a BERT or RoBERTa folder."""
    settings = folder.settings
    settings.fixed("position_embedding_type", "absolute")
    settings.unused("emb_size")  # the width once more, which distillers wrote down
    dropout = settings.get("hidden_dropout_prob", 0.1)
    width, number = settings.get("hidden_size", 768), settings.get("num_attention_heads", 12)
    attention = heads(settings, number, number, width, None, dropout=settings.get("attention_probs_dropout_prob", 0.1))
    activation = settings.activation("hidden_act", "gelu")
    is_roberta = settings.values.get("model_type") == "roberta"
    offset = settings.get("pad_token_id", 1) + 1 if is_roberta else 0
    stack = Stack(
        d_model=width,
        num_layers=settings.layers("num_hidden_layers", 12),
        attention=attention,
        feed_forward=FeedForward(d_ff=settings.get("intermediate_size", 3072), activation=activation),
        positions=Learned(max_length=settings.get("max_position_embeddings", 512) - offset, offset=offset),
        norm=LayerNorm(epsilon=settings.get("layer_norm_eps", 1e-12)),
        dropout=dropout,
    )
    types = settings.get("type_vocab_size", 2)
    front = Tokens(
        vocab_size=settings.get("vocab_size", 30_522),
        token_types=types if folder.has("token_type_embeddings.weight") else 0,
        norm=True,
        dropout=dropout,
    )
    return _encoder(folder, front, stack, dropout=settings.get("classifier_dropout", dropout))


def read_distilbert(folder: Folder) -> Encoder:
    """The config of a DistilBERT folder."""
    settings = folder.settings
    settings.unused("sinusoidal_pos_embds", "qa_dropout")
    settings.fixed("tie_weights_", True)
    dropout, width, number = settings.get("dropout", 0.1), settings.get("dim", 768), settings.get("n_heads", 12)
    stack = Stack(
        d_model=width,
        num_layers=settings.layers("n_layers", 6),
        attention=heads(settings, number, number, width, None, dropout=settings.get("attention_dropout", 0.1)),
        feed_forward=FeedForward(
            d_ff=settings.get("hidden_dim", 3072), activation=settings.activation("activation", "gelu")
        ),
        positions=Learned(max_length=settings.get("max_position_embeddings", 512)),
        norm=LayerNorm(epsilon=1e-12),
        dropout=dropout,
    )
    front = Tokens(vocab_size=settings.get("vocab_size", 30_522), norm=True, dropout=dropout)
    return _encoder(folder, front, stack, dropout=settings.get("seq_classif_dropout", 0.2))


def _encoder(folder: Folder, front: Tokens, stack: Stack, *, dropout: float) -> Encoder:
    settings = folder.settings
    settings.unused("classifier_dropout", "seq_classif_dropout")
    tied = settings.get("tie_word_embeddings", True)
    head = _head(folder, dropout, stack)
    tie: tuple[Tied, ...] = ("source", "output") if isinstance(head, MaskedLanguage) and tied else ()
    return Encoder(front=front, stack=stack, head=head, tie=tie, init=NormalInit())


def _head(
    folder: Folder, dropout: float, stack: Stack
) -> MaskedLanguage | Classification | TokenClassification | Embedding:
    settings: Settings = folder.settings
    purpose = folder.purpose(*PURPOSES)
    if folder.pooling is not None:
        return folder.pooling
    distilled = settings.values.get("model_type") == "distilbert"
    match purpose:
        case "ForSequenceClassification":
            _raw_scores(settings)
            return Classification(labels=settings.labels(), activation="relu" if distilled else "tanh", dropout=dropout)
        case "ForTokenClassification":
            return TokenClassification(labels=settings.labels(), dropout=stack.dropout if distilled else dropout)
        case "Model":
            pooled = folder.has("pooler.dense.weight")
            return Embedding(pooling="first" if pooled else "mean", projected=pooled, normalized=False)
        case _:
            own = settings.values.get("model_type") != "roberta"
            return MaskedLanguage(activation=stack.feed_forward.activation if own else "gelu")


def _raw_scores(settings: Settings) -> None:
    """What sentence-transformers put after the scores of a cross-encoder: ours are given as they are."""
    nested: Mapping[str, object] = settings.get("sentence_transformers", {})
    told = nested.get("activation_fn", settings.maybe("sbert_ce_default_activation_function"))
    if told is not None and str(told).rpartition(".")[2] != "Identity":
        wanted = "Identity: scores are given as they are"
        raise ConfigError(f"{settings.where}: activation of the scores", f"found {told!r}", wanted)


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    assert isinstance(model, Encoder)  # the translation makes nothing else
    tower = _tower("bert")
    match model.head:
        case Classification():
            return (*tower, module("bert.pooler.dense", "head.dense"), module("classifier", "head.project"))
        case TokenClassification():
            return (*tower, module("classifier", "head.project"))
        case Embedding():
            return (*tower, module("bert.pooler.dense", "head.dense"))
        case MaskedLanguage():
            return (
                *tower,
                module("cls.predictions.transform.dense", "head.dense"),
                module("cls.predictions.transform.LayerNorm", "head.norm"),
                *_vocabulary(model, "cls.predictions.decoder", "cls.predictions.bias"),
            )


def table_roberta(model: Model) -> Table:
    """The same tower under another name, with heads of its own."""
    assert isinstance(model, Encoder)  # the translation makes nothing else
    tower = _tower("roberta")
    match model.head:
        case Classification():
            return (*tower, module("classifier.dense", "head.dense"), module("classifier.out_proj", "head.project"))
        case TokenClassification():
            return (*tower, module("classifier", "head.project"))
        case Embedding():
            return (*tower, module("roberta.pooler.dense", "head.dense"))
        case MaskedLanguage():
            return (
                *tower,
                module("lm_head.dense", "head.dense"),
                module("lm_head.layer_norm", "head.norm"),
                *_vocabulary(model, "lm_head.decoder", "lm_head.bias"),
            )


def _vocabulary(model: Encoder, decoder: str, bias: str) -> tuple[Entry, ...]:
    """The bias stands beside the decoder too: the same where it is tied, and where it is not the one that counts."""
    own = module(decoder, "head.project")
    return (tensor(bias, "head.project.bias"), own) if model.tie else (own,)


def _tower(name: str) -> tuple[Entry, ...]:
    layer, attention, feed_forward = f"{name}.encoder.layer.*", "blocks.*.self_attention", "blocks.*.feed_forward"
    return (
        module(f"{name}.embeddings.word_embeddings", "embedding.table"),
        module(f"{name}.embeddings.position_embeddings", "embedding.positions.table"),
        module(f"{name}.embeddings.token_type_embeddings", "embedding.token_types"),
        module(f"{name}.embeddings.LayerNorm", "embedding.norm"),
        module(f"{layer}.attention.self.query", f"{attention}.query"),
        module(f"{layer}.attention.self.key", f"{attention}.key"),
        module(f"{layer}.attention.self.value", f"{attention}.value"),
        module(f"{layer}.attention.output.dense", f"{attention}.out"),
        module(f"{layer}.attention.output.LayerNorm", f"{attention}_residual.after"),
        module(f"{layer}.intermediate.dense", f"{feed_forward}.up"),
        module(f"{layer}.output.dense", f"{feed_forward}.down"),
        module(f"{layer}.output.LayerNorm", f"{feed_forward}_residual.after"),
    )


def table_distilbert(model: Model) -> Table:
    """Which tensor is which parameter, in DistilBERT's own words."""
    assert isinstance(model, Encoder)  # the translation makes nothing else
    layer, attention, feed_forward = (
        "distilbert.transformer.layer.*",
        "blocks.*.self_attention",
        "blocks.*.feed_forward",
    )
    tower = (
        module("distilbert.embeddings.word_embeddings", "embedding.table"),
        module("distilbert.embeddings.position_embeddings", "embedding.positions.table"),
        module("distilbert.embeddings.LayerNorm", "embedding.norm"),
        module(f"{layer}.attention.q_lin", f"{attention}.query"),
        module(f"{layer}.attention.k_lin", f"{attention}.key"),
        module(f"{layer}.attention.v_lin", f"{attention}.value"),
        module(f"{layer}.attention.out_lin", f"{attention}.out"),
        module(f"{layer}.sa_layer_norm", f"{attention}_residual.after"),
        module(f"{layer}.ffn.lin1", f"{feed_forward}.up"),
        module(f"{layer}.ffn.lin2", f"{feed_forward}.down"),
        module(f"{layer}.output_layer_norm", f"{feed_forward}_residual.after"),
    )
    match model.head:
        case Classification():
            return (*tower, module("pre_classifier", "head.dense"), module("classifier", "head.project"))
        case TokenClassification():
            return (*tower, module("classifier", "head.project"))
        case Embedding():
            return tower
        case MaskedLanguage():
            return (
                *tower,
                module("vocab_transform", "head.dense"),
                module("vocab_layer_norm", "head.norm"),
                module("vocab_projector", "head.project"),
            )


def write(model: Model) -> Written | None:
    """The config.json of an encoder with learned positions, as BERT or, where they are offset, as RoBERTa."""
    if not isinstance(model, Encoder) or not isinstance(model.front, Tokens):
        return None
    stack, positions = model.stack, model.stack.positions
    if not isinstance(positions, Learned):
        return None
    kind, stem = ("roberta", "Roberta") if positions.offset else ("bert", "Bert")
    types = model.front.token_types
    table = f"{'' if isinstance(model.head, Embedding) else kind + '.'}embeddings.token_type_embeddings.weight"
    settings = {
        "model_type": kind,
        "architectures": [stem + _purpose(model)],
        "vocab_size": model.front.vocab_size,
        "hidden_size": stack.d_model,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.attention.num_heads,
        "intermediate_size": stack.feed_forward.d_ff,
        "hidden_act": ACTIVATION_NAMES[stack.feed_forward.activation],
        "hidden_dropout_prob": stack.dropout,
        "attention_probs_dropout_prob": stack.attention.dropout,
        "max_position_embeddings": positions.max_length + positions.offset,
        "type_vocab_size": types or 1,
        "layer_norm_eps": stack.norm.epsilon,
        "tie_word_embeddings": bool(model.tie) or not isinstance(model.head, MaskedLanguage),
        **({"pad_token_id": positions.offset - 1} if positions.offset else {}),
        **_labels(model),
    }
    return Written(settings, {} if types else {table: (1, stack.d_model)})


def write_distilbert(model: Model) -> Written | None:
    """The config.json of an encoder without token types."""
    if not isinstance(model, Encoder) or not isinstance(model.front, Tokens):
        return None
    stack, positions = model.stack, model.stack.positions
    if not isinstance(positions, Learned) or model.front.token_types:
        return None
    return Written(
        {
            "model_type": "distilbert",
            "architectures": ["DistilBert" + _purpose(model)],
            "vocab_size": model.front.vocab_size,
            "dim": stack.d_model,
            "n_layers": stack.num_layers,
            "n_heads": stack.attention.num_heads,
            "hidden_dim": stack.feed_forward.d_ff,
            "activation": ACTIVATION_NAMES[stack.feed_forward.activation],
            "dropout": stack.dropout,
            "attention_dropout": stack.attention.dropout,
            "max_position_embeddings": positions.max_length,
            "tie_word_embeddings": bool(model.tie) or not isinstance(model.head, MaskedLanguage),
            **_labels(model),
        }
    )


def _purpose(model: Encoder) -> str:
    match model.head:
        case Classification():
            return "ForSequenceClassification"
        case TokenClassification():
            return "ForTokenClassification"
        case Embedding():
            return "Model"
        case MaskedLanguage():
            return "ForMaskedLM"


def _labels(model: Encoder) -> dict[str, object]:
    head = model.head
    return written_labels(head.labels) if isinstance(head, Classification | TokenClassification) else {}


UNREAD = (
    "*position_ids",
    "*token_type_ids",
    "cls.seq_relationship.*",
    "*pooler.dense.*",
    "cls.predictions.bias",
    "lm_head.bias",
)

BERT = Layout(("bert",), read, table, write, prefix="bert.", renamed=OLD_NORMS, unread=UNREAD, heads=("cls.*",))
ROBERTA = Layout(
    ("roberta",), read, table_roberta, write, prefix="roberta.", renamed=OLD_NORMS, unread=UNREAD, heads=("lm_head.*",)
)
DISTILBERT = Layout(
    ("distilbert",),
    read_distilbert,
    table_distilbert,
    write_distilbert,
    prefix="distilbert.",
    unread=UNREAD,
    heads=("vocab_*",),
)
