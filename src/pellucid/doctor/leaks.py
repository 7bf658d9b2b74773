"""The patterns of what sees the future, by what it sees it with."""

from __future__ import annotations

from pellucid.doctor import signs
from pellucid.doctor.diagnose import Pattern
from pellucid.doctor.signs import CACHE, CAUSAL, ENCODER, MAP, MASK, MEMORY, PADDING, PREFIX, ROWS, SOURCE
from pellucid.doctor.step_faults import ADDED

BOOLEAN = (
    "make the mask boolean, True where a query may look: torch.ones(T, S, dtype=torch.bool).tril(S - T); or, to "
    "add it, -inf where it may not and 0 elsewhere"
)
FLOOR = ("loss.random_floor", "overfit.one_batch")
LEAK = (PREFIX, MASK, MAP, CACHE, PADDING, "decode.reorder", "backend.parity", *FLOOR)
"""What fails with a leak: a prefix lacks what it saw, a cache never had it, padding comes with another mask."""

LEAKS: tuple[Pattern, ...] = (
    Pattern(
        name="rows and positions are mixed by BatchNorm", when=signs.norm_over_batch, begins=(ROWS, CAUSAL),
        explains=(*LEAK, "pos.axis"), fix='LayerNorm over the last axis; or declare={"batch_coupled"}',
        references=("DeepXi#18",),
    ),
    Pattern(
        name="the encoder is told the target", when=signs.encoder_told, begins=(ENCODER,), explains=(CAUSAL, *LEAK),
        fix="encode(source) once, before and without the target", references=("pytorch/pytorch#31567",),
    ),
    Pattern(
        name="the target is encoded in place of the source", when=signs.told_by_target, begins=(CAUSAL,),
        explains=(SOURCE, MEMORY, *LEAK), fix="memory = encode(source); decode(target, memory)",
        references=("keras-team/keras-io#1046",),
    ),
    Pattern(
        name="the causal mask is lost on the path that training takes",
        when=signs.holds(CAUSAL, "only_in_training", True, "the future leaks in training mode and not in evaluation"),
        begins=(CAUSAL,),
        explains=LEAK, references=("keras-team/keras#23038",),
        fix="apply the mask in the branch that runs with dropout or returns scores as well; compare both branches",
    ),
    Pattern(
        name="the causal mask is upside down",
        when=signs.holds(MAP, "shape", "upper triangle", "positions see the future and not the past"),
        begins=(CAUSAL, MAP), explains=LEAK,
        fix="True keeps in scaled_dot_product_attention, and drops in nn.MultiheadAttention: "
        "torch.ones(T, T, dtype=torch.bool).tril() for the first, .triu(1) for the second",
        references=("rasbt/LLMs-from-scratch#1061", "pytorch/pytorch#170400"),
    ),
    Pattern(
        name="the softmax is taken over another axis than the keys", when=signs.has("attn.softmax_axis", "over"),
        begins=("attn.softmax_axis",), explains=(CAUSAL, "attn.scale", *LEAK),
        fix="scores.softmax(-1), of scores (B, H, T, S)",
        references=("labmlai/annotated_deep_learning_paper_implementations#146",),
    ),
    Pattern(
        name="weights are something else than a softmax of the masked scores", when=signs.seen("attn.softmax_axis"),
        begins=("attn.softmax_axis",), explains=(CAUSAL, "attn.scale", *LEAK),
        fix="scores.masked_fill(hidden, -inf).softmax(-1), once, and nothing but dropout after it",
    ),
    Pattern(
        name="heads are split or joined by view or reshape, without a transpose", when=signs.seen("attn.heads"),
        begins=("attn.heads",),
        explains=(CAUSAL, ROWS, "pos.rope", *LEAK),
        fix="x.view(B, T, H, K).transpose(1, 2) to split; .transpose(1, 2).reshape(B, T, H * K) to join",
        references=("jsbaan/transformer-from-scratch#6", "ajhalthor/Transformer-Neural-Network#4"),
    ),
    Pattern(
        name="positions are mixed by a reshape, without a transpose", when=signs.heads_by_length, begins=(CAUSAL,),
        explains=LEAK, references=("jsbaan/transformer-from-scratch#6",),
        fix="x.view(B, T, H, K).transpose(1, 2) to split heads; .transpose(1, 2).reshape(B, T, H * K) to join them",
    ),
    Pattern(
        name="a norm takes its statistics over time", when=signs.norm_over_time, begins=(CAUSAL,), explains=LEAK,
        fix="norms over the last axis alone: LayerNorm(D), and not LayerNorm([T, D]) or statistics over axis 1",
        references=("google-deepmind/dm-haiku#700", "DeepXi#18"),
    ),
    Pattern(
        name="experts choose their tokens from the whole sequence", when=signs.experts, begins=(CAUSAL,),
        explains=LEAK,
        fix='let tokens choose their experts; or declare={"expert_choice"} and do not write text with it',
        references=("allenai/OLMoE#46",),
    ),
    Pattern(
        name=ADDED, begins=(CAUSAL, MASK), explains=LEAK, fix=BOOLEAN,
        when=signs.holds(MASK, "added", True, "what is added to the scores is 0 and 1, and nothing else"),
    ),
    Pattern(
        name="the causal mask is right within the window only", when=signs.beyond_window, begins=(CAUSAL,),
        explains=LEAK,
        fix="combine masks as booleans: causal & near; an additive mask must not be multiplied",
        references=("huggingface/transformers#31673",),
    ),
    Pattern(
        name="the causal mask is off by one: a query sees the next key", begins=(CAUSAL, MASK), explains=LEAK,
        when=signs.holds(MASK, "ahead", 1, "a query gives weight to the key after it, and to none beyond"),
        fix="torch.ones(T, T, dtype=torch.bool).tril() to keep, or .triu(1) to hide: the diagonal is the query itself",
    ),
    Pattern(
        name="a layer has no causal mask", when=signs.no_mask, begins=(CAUSAL,), explains=LEAK,
        fix="give every layer the mask: scores.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -inf), or "
        "is_causal=True",
        references=("huggingface/transformers#48745", "facebookresearch/xformers#103"),
    ),
    Pattern(
        name="something besides attention mixes over time", when=signs.mixed, begins=(CAUSAL,), explains=LEAK,
        fix="look at what the named module does over the axis of time: pooling, convolution, statistics, sorting",
        references=("lucidrains/linformer#25", "karpathy/nanochat#844"),
    ),
)  # fmt: skip
