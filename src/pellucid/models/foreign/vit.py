"""The Vision Transformer (Dosovitskiy et al. 2021): patches, a class token, learned positions, pre-norm."""

from __future__ import annotations

from pellucid.config.model import Classification, Embedding, Encoder, Model, NormalInit, Patches
from pellucid.config.parts import FeedForward, LayerNorm, Learned, Stack
from pellucid.models.foreign.layout import Folder, Layout, Written, heads
from pellucid.models.foreign.settings import ACTIVATION_NAMES, written_labels
from pellucid.models.foreign.table import Table, module, tensor


def read(folder: Folder) -> Encoder:
    """The config of a ViT folder."""
    settings = folder.settings
    purpose = folder.purpose("ForImageClassification", "Model")
    width, number = settings.get("hidden_size", 768), settings.get("num_attention_heads", 12)
    settings.unused("encoder_stride")
    settings.fixed("pooler_act", "tanh")
    settings.fixed("pooler_output_size", None, width)
    biased, dropout = settings.get("qkv_bias", True), settings.get("hidden_dropout_prob", 0.0)
    front = Patches(
        image_size=settings.get("image_size", 224),
        patch_size=settings.get("patch_size", 16),
        channels=settings.get("num_channels", 3),
        dropout=dropout,
    )
    stack = Stack(
        d_model=width,
        num_layers=settings.layers("num_hidden_layers", 12),
        attention=heads(
            settings,
            number,
            number,
            width,
            None,
            bias=biased,
            out_bias=None if biased else True,
            dropout=settings.get("attention_probs_dropout_prob", 0.0),
        ),
        feed_forward=FeedForward(
            d_ff=settings.get("intermediate_size", 3072), activation=settings.activation("hidden_act", "gelu")
        ),
        positions=Learned(max_length=(front.image_size // front.patch_size) ** 2 + 1),
        norm=LayerNorm(epsilon=settings.get("layer_norm_eps", 1e-12)),
        placement="pre",
        dropout=dropout,
    )
    head: Classification | Embedding
    if purpose == "ForImageClassification":
        head = Classification(labels=settings.labels(), projected=False, dropout=0.0)
    else:
        head = Embedding(pooling="first", projected=folder.has("pooler.dense.weight"), normalized=False)
    return Encoder(front=front, stack=stack, head=head, init=NormalInit(truncated=True))


def table(model: Model) -> Table:
    """Which tensor is which parameter."""
    assert isinstance(model, Encoder)
    assert isinstance(model.front, Patches)  # the translation makes nothing else
    size = model.front.patch_size
    patches = "vit.embeddings.patch_embeddings.projection"
    layer, attention, feed_forward = "vit.encoder.layer.*", "blocks.*.self_attention", "blocks.*.feed_forward"
    return (
        tensor(f"{patches}.weight", "embedding.project.weight", shape=(-1, model.front.channels, size, size)),
        tensor(f"{patches}.bias", "embedding.project.bias"),
        tensor("vit.embeddings.cls_token", "embedding.class_token", shape=(1, 1, -1)),
        tensor(
            "vit.embeddings.position_embeddings",
            "embedding.positions.table.weight",
            shape=(1, -1, model.stack.d_model),
        ),
        module(f"{layer}.layernorm_before", f"{attention}_residual.before"),
        module(f"{layer}.attention.attention.query", f"{attention}.query"),
        module(f"{layer}.attention.attention.key", f"{attention}.key"),
        module(f"{layer}.attention.attention.value", f"{attention}.value"),
        module(f"{layer}.attention.output.dense", f"{attention}.out"),
        module(f"{layer}.layernorm_after", f"{feed_forward}_residual.before"),
        module(f"{layer}.intermediate.dense", f"{feed_forward}.up"),
        module(f"{layer}.output.dense", f"{feed_forward}.down"),
        module("vit.layernorm", "final_norm"),
        module("vit.pooler.dense", "head.dense"),
        module("classifier", "head.project"),
    )


def write(model: Model) -> Written | None:
    """The config.json of an encoder of images."""
    if not isinstance(model, Encoder) or not isinstance(model.front, Patches):
        return None
    stack, classifies = model.stack, isinstance(model.head, Classification)
    return Written(
        {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification" if classifies else "ViTModel"],
            "image_size": model.front.image_size,
            "patch_size": model.front.patch_size,
            "num_channels": model.front.channels,
            "hidden_size": stack.d_model,
            "num_hidden_layers": stack.num_layers,
            "num_attention_heads": stack.attention.num_heads,
            "intermediate_size": stack.feed_forward.d_ff,
            "hidden_act": ACTIVATION_NAMES[stack.feed_forward.activation],
            "hidden_dropout_prob": stack.dropout,
            "attention_probs_dropout_prob": stack.attention.dropout,
            "layer_norm_eps": stack.norm.epsilon,
            "qkv_bias": stack.attention.bias,
            **(written_labels(model.head.labels) if isinstance(model.head, Classification) else {}),
        }
    )


VIT = Layout(
    model_types=("vit",),
    read=read,
    table=table,
    write=write,
    prefix="vit.",
    unread=("*pooler.dense.*", "*embeddings.mask_token"),
)
