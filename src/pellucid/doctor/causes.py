"""The patterns of findings that name a cause, the most particular first.

What disturbs every comparison comes first: a model whose passes differ by themselves fails them all. Then what sees the
future, by what it sees it with; then rows, sources, padding, caches, losses, parameters.
"""

from __future__ import annotations

from pellucid.doctor import signs
from pellucid.doctor.diagnose import Pattern
from pellucid.doctor.leaks import BOOLEAN, FLOOR, LEAKS
from pellucid.doctor.signs import (
    ALIGNMENT,
    CACHE,
    CAUSAL,
    COVERAGE,
    ENCODER,
    MAP,
    MASK,
    MEMORY,
    PADDING,
    PREFIX,
    ROWS,
    SHARING,
    SOURCE,
)
from pellucid.doctor.step_faults import ADDED

PASSES = (
    CAUSAL, PREFIX, CACHE, PADDING, MASK, MAP, ROWS, SOURCE, MEMORY, ENCODER, SHARING, ALIGNMENT, "eval.deterministic",
    "backend.parity", "forward.stateless", "decode.reorder", "cache.poison", "pos.axis", "pos.present", "pos.rope",
    "attn.softmax_axis", "health.gradients",
)  # fmt: skip
"""What compares two passes."""

SEQUENCES: tuple[Pattern, ...] = (
    Pattern(
        name="a mask hides some of the source from the decoder", when=signs.cross_hidden, begins=(MASK,),
        explains=(SOURCE, MEMORY, CACHE, PADDING, PREFIX), fix="mask the memory by the padding of the source alone: "
        "(B, 1, 1, S), and never by a triangle", references=("zhouhaoyi/Informer2020#38",),
    ),
    Pattern(
        name="the encoder has a causal mask", when=signs.causal_encoder, begins=(MASK, MAP),
        explains=("backend.parity",),
        fix="no mask but that of the padding: is_causal=False", references=("zhouhaoyi/Informer2020#38",),
    ),
    Pattern(
        name="the window is not applied", when=signs.no_window, begins=(MASK, MAP), explains=(CACHE, PADDING),
        fix="allowed = causal & (query - key < window), on every path and in every kernel",
        references=("huggingface/transformers#40700", "unslothai/unsloth#8253"),
    ),
    Pattern(
        name="rows of a batch are mixed", when=signs.seen(ROWS), begins=(ROWS,),
        explains=(PADDING, CACHE, MAP, "decode.reorder", "pos.axis", "pos.present", "cache.poison",
                  "forward.stateless"),
        fix="(B, T, D) throughout, or batch_first=True; fold heads and masks in one order",
        references=("lsdefine/attention-is-all-you-need-keras#36", "OpenNMT/OpenNMT-py#502"),
    ),
    Pattern(
        name="the source is cut to the length of the target", when=signs.source_cut, begins=(SOURCE,),
        explains=(PREFIX, CACHE, PADDING, MEMORY), fix="let both have their own length",
        references=("NVIDIA/FasterTransformer#270",),
    ),
    Pattern(
        name="the decoder never looks at the source", when=signs.source_unread, begins=(SOURCE,),
        explains=(MEMORY, CACHE, PADDING, COVERAGE, PREFIX), references=("keras-team/keras-io#1046",),
        fix="cross_attention(query=x, key=memory, value=memory), its result added to the residual",
    ),
    Pattern(
        name="the padding mask is upside down",
        when=signs.holds(PADDING, "upside_down", True, "queries see padding, and nothing that is real"),
        begins=(PADDING,), explains=(MEMORY, CACHE),
        fix="True keeps in attention_mask and scaled_dot_product_attention, and hides in key_padding_mask",
        references=("rasbt/LLMs-from-scratch#1061", "NVIDIA/TransformerEngine#614"),
    ),
    Pattern(
        name="the decoder sees padding of the source",
        when=signs.always("tokens in padded places of the source move outputs, through the attention to it"),
        begins=(MEMORY,), explains=(PADDING, CACHE),
        fix="give cross-attention the padding of the source: (B, 1, 1, S); memory_key_padding_mask of nn.Transformer",
        references=("huggingface/transformers#47946", "keras-team/keras-io#1046"),
    ),
    Pattern(
        name="the encoder sees padding of the source", when=signs.encoder_padding, begins=(PADDING,),
        explains=(CACHE,),
        fix="hide padded keys in the encoder's own attention too: (B, 1, 1, S)",
        references=("hyunwoongko/transformer#40",),
    ),
    Pattern(
        name="a padding mask takes the place of the causal mask", when=signs.mask_replaced, begins=(PADDING,),
        explains=(CACHE,), fix="allowed = causal & keep[:, None, None, :]",
        references=("facebookresearch/xformers#103",),
    ),
    Pattern(
        name="positions are counted from the left edge, padding included", when=signs.from_the_left,
        begins=(PADDING,),
        explains=(CACHE,), fix="positions = (keep.cumsum(1) - 1).clamp(min=0)",
        references=("huggingface/transformers#18478", "unslothai/unsloth#3699"),
    ),
    Pattern(
        name="a query that may see nothing gives NaN",
        when=signs.holds(PADDING, "kind", "nan", "padding makes NaN"), begins=(PADDING,), explains=(CACHE, MEMORY),
        fix="leave it something to see, or set its weights to zero after the softmax; add masks as booleans",
        references=("pytorch/pytorch#41508", "pytorch/pytorch#103749"),
    ),
)  # fmt: skip

CACHES: tuple[Pattern, ...] = (
    Pattern(
        name="positions are told wrongly, or to no one", when=signs.seen("pos.present"), begins=("pos.present",),
        explains=(PREFIX, CACHE, "pos.sinusoid", "pos.axis"), fix="tokens + positions[:, :T], of shape (1, T, D); as "
        "many positions as the longest text has",
        references=("Lightning-AI/pytorch-lightning#20099", "DiffPoseTalk#20"),
    ),
    Pattern(
        name="layers share their place in the cache", when=signs.shared_cache, begins=(SHARING,), explains=(CACHE,),
        fix="make each layer anew, with a number of its own", references=("IDEA-Research/DAB-DETR#17",),
    ),
    Pattern(
        name="positions of a step do not go on from the cache", begins=(CACHE,), explains=("decode.reorder",),
        when=signs.holds(CACHE, "why", "placed", "the keys that a step adds are not those of one pass"),
        fix="count positions from the length of the cache", references=("huggingface/transformers#35044",),
    ),
    Pattern(
        name="a step reads another source than one pass", begins=(CACHE,), explains=("decode.reorder",),
        when=signs.holds(CACHE, "why", "source", "keys of the source, or those seen, are not those of one pass"),
        fix="keep keys, values and padding of the source in the cache, row by row",
        references=("NVIDIA/FasterTransformer#270", "awslabs/sockeye#731"),
    ),
    Pattern(
        name="keys of the past are lost, or in the wrong slot of the cache", begins=(CACHE,),
        when=signs.holds(CACHE, "why", "stored", "the keys that a step finds in the cache are not those of one pass"),
        explains=("decode.reorder", "cache.poison"), fix="append keys and values of every layer to its own part",
        references=("mistralai/mistral-inference#88", "huggingface/transformers#45242"),
    ),
    Pattern(
        name=f"{ADDED}, in steps", begins=(CACHE,), explains=("decode.reorder",),
        when=signs.holds(CACHE, "added", True, "what is added to the scores of a step is 0 and 1, and nothing else"),
        fix=BOOLEAN,
    ),
    Pattern(
        name="the mask of a step hides what it may see, or shows what it may not", begins=(CACHE,),
        when=signs.step_masked,
        explains=("decode.reorder",), fix="with T queries and S keys, query i sees keys up to S - T + i: "
        "torch.ones(T, S, dtype=torch.bool).tril(S - T), boolean; is_causal counts from the top left",
        references=("pytorch/pytorch#108108", "Dao-AILab/flash-attention#517"),
    ),
    Pattern(
        name="the mask of a chunk is aligned with the first key, or missing",
        when=signs.holds(CACHE, "way", "uneven chunks", "steps of one token agree with one pass, and chunks do not"),
        begins=(CACHE,),
        explains=("decode.reorder",), fix="with T queries and S keys, query i sees keys up to S - T + i: "
        "torch.ones(T, S, dtype=torch.bool).tril(S - T), boolean; is_causal counts from the top left",
        references=("pytorch/pytorch#108108", "Dao-AILab/flash-attention#517"),
    ),
    Pattern(
        name="one counter of positions serves rows of different lengths",
        when=signs.holds(CACHE, "way", "rows of different lengths", "rows without padding agree, padded ones do not"),
        begins=(CACHE,),
        fix="positions and masks of each row by its own padding, in steps as in one pass",
        references=("rasbt/reasoning-from-scratch#33",),
    ),
    Pattern(
        name="positions do not go on after the prompt",
        when=signs.holds(CACHE, "way", "a prompt, then one by one", "steps agree, and those after a prompt do not"),
        begins=(CACHE,),
        explains=("decode.reorder",), fix="count positions from the length of the cache",
        references=("huggingface/transformers#35044",),
    ),
    Pattern(
        name="the cache disagrees with one pass", when=signs.cache, begins=(CACHE,), explains=("decode.reorder",),
        fix="append keys and values of every layer; count positions from the cache's length; mask by it",
        references=("huggingface/transformers#45242", "mistralai/mistral-inference#88"),
    ),
    Pattern(
        name="part of the cache keeps its rows when beams are chosen", begins=("decode.reorder",),
        part=("decode.reorder", "kept"), when=signs.holds_any("decode.reorder", "kept", "rows that were chosen anew "
        "must be so in every tensor of the cache"),
        fix="choose the rows of this part as well, by the same index",
        references=("awslabs/sockeye#731", "jadore801120/attention-is-all-you-need-pytorch#28"),
    ),
)  # fmt: skip

LEARNING: tuple[Pattern, ...] = (
    Pattern(
        name="labels are not shifted: each position is asked for what it reads", begins=(ALIGNMENT,), explains=FLOOR,
        when=signs.holds(ALIGNMENT, "apart", 0, "the label of a position is the last token that it has read"),
        fix="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()), or a decoder that reads "
        "[start, ids[:-1]]",
        references=("Project-MONAI/GenerativeModels#314", "huggingface/transformers#27517"),
    ),
    Pattern(
        name="labels are shifted twice", begins=(ALIGNMENT,), explains=FLOOR,
        when=signs.holds(ALIGNMENT, "apart", 2, "the label of a position is the token after the next"),
        fix="shift once: either the caller gives the ids themselves and the loss shifts, or the caller gives targets "
        "that already stand one ahead and the loss takes logits and targets as they are",
        references=("huggingface/transformers#47394", "huggingface/transformers#32944"),
    ),
    Pattern(
        name="labels are shifted the wrong way", begins=(ALIGNMENT,), explains=FLOOR,
        when=signs.holds(ALIGNMENT, "apart", -1, "the label of a position is the token before the last read"),
        fix="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())",
        references=("Project-MONAI/GenerativeModels#314",),
    ),
    Pattern(
        name="the model returns probabilities, and the loss takes their softmax", when=signs.twice_softmax,
        begins=("loss.init",), explains=(ALIGNMENT, "overfit.one_batch"),
        fix="return the scores; F.cross_entropy takes the softmax",
    ),
    Pattern(
        name="gradients of a small batch are lost", begins=("accum.token_weights",), explains=("accum.grad_equal",),
        when=signs.holds("accum.token_weights", "lost", True, "one of two small batches is not in what is gathered"),
        fix="zero gradients once, before the first small batch", references=("karpathy/nanoGPT#206",),
    ),
    Pattern(
        name="tokens of short texts or small batches weigh more", when=signs.seen("accum.token_weights"),
        begins=("accum.token_weights",),
        explains=("accum.grad_equal",), references=("huggingface/transformers#34191", "pytorch/torchtune#1875"),
        fix="sum the losses of tokens, and divide by the number of asked tokens of all batches together",
    ),
    Pattern(
        name="parts are not registered in the model", when=signs.has(COVERAGE, "hidden"), begins=(COVERAGE,),
        explains=("health.gradients", "overfit.one_batch"),
        fix="register them: a list of modules as nn.ModuleList, a dictionary as nn.ModuleDict, a tensor as "
        "nn.Parameter",
        references=("pytorch/pytorch#666",),
    ),
    Pattern(
        name="parts never run, or are cut off from the gradient", when=signs.has(COVERAGE, "silent"),
        begins=(COVERAGE,),
        explains=("health.gradients", "overfit.one_batch", MAP),
        fix="call them in forward, without no_grad, detach or .data",
        references=("Cerebras/modelzoo#85", "Lightning-AI/pytorch-lightning#20099"),
    ),
    Pattern(
        name="units of the feed-forward network are dead", when=signs.seen("health.ffn"), begins=("health.ffn",),
        explains=(COVERAGE,), fix="a lower rate, biases that start at zero, GELU in place of ReLU",
        references=("autonomousvision/transfuser#146",),
    ),
    Pattern(
        name="scores have the wrong scale", when=signs.seen("attn.scale"), begins=("attn.scale",),
        explains=("health.attention", "overfit.one_batch", "health.gradients", PREFIX),
        fix="scores / √head_dim, once; Spec(scale=…) where it is meant otherwise",
        references=("mlc-ai/mlc-llm#3426", "NVIDIA/Megatron-LM#848"),
    ),
)  # fmt: skip

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        name="something of one call is kept in the module, and changes the next",
        when=signs.stateful,
        begins=("forward.stateless",), explains=PASSES,
        fix="keep what belongs to one text in an argument and a return "
        "value, not in self", references=("OpenNMT/OpenNMT-py#502",),
    ),
    Pattern(
        name="outputs are NaN: a query may see nothing, or something is divided by zero",
        when=signs.has("eval.deterministic", "nan"), begins=("eval.deterministic",), explains=PASSES,
        fix="find the first NaN: register_forward_hook on every module, and look which returns it; let every query "
        "see itself at the least",
        references=("pytorch/pytorch#41508", "pytorch/pytorch#103749"),
    ),
    Pattern(
        name="dropout, or another random choice, is on in evaluation mode",
        when=signs.always("two passes in evaluation mode differ by themselves, and so does all that compares two"),
        begins=("eval.deterministic",), explains=PASSES,
        fix="dropout_p=self.p if self.training else 0.0; F.dropout(x, p, training=self.training)",
        references=("huggingface/pytorch-image-models#1978", "karpathy/nanoGPT#240"),
    ),
    *LEAKS,
    *SEQUENCES,
    *CACHES,
    *LEARNING,
)  # fmt: skip
