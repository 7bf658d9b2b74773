"""What the doctor says of architectures of ``transformers`` and is right about: each with its evidence.

Lines are those of the version in ``MEASURED``. Of each it was shown by hand, in double precision where the model runs in
it, that the numbers differ, and in the source why.
"""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = "5.24"
"""The version of ``transformers`` in which the table was made; what is fixed in a later one need not occur there."""


@dataclass(frozen=True)
class Explained:
    """One cause of findings that are FAIL or INCONCLUSIVE.

    Attributes:
        architectures: names of classes.
        checks: whose findings it explains; each must occur in each architecture.
        kind: ``fault`` of the model or its configuration; ``limit`` of what it is made for, which is known and meant.
        why: the evidence.
    """

    architectures: tuple[str, ...]
    checks: tuple[str, ...]
    kind: str
    why: str


def _of(names: str, end: str, *checks: str, kind: str, why: str) -> Explained:
    return Explained(tuple(f"{name}{end}" for name in names.split()), checks, kind, " ".join(why.split()))


CAUSES = (
    _of("ProphetNet", "ForConditionalGeneration", "causal.prefix_invariance", "prefix.length_invariance",
        "pad.invariance", "influence.map", "kv.parity", kind="fault", why="""
        ProphetNetNgramSelfAttention.get_predict_relative_pos_embeddings flattens (batch, position, n-gram, head), looks
        up buckets in the order (n-gram, batch, head, position) and views the result as (batch, n-gram, head, position):
        relative positions of one place are added at others, of the future too. With the axes put in one order all five
        findings vanish. The order came with huggingface/transformers#21870."""),
    _of("Bart MBart Pegasus Blenderbot BlenderbotSmall Marian TrOCR PLBart Mvp", "ForCausalLM", "loss.alignment",
        kind="fault", why="""
        Labels are compared with logits in their place and shifted nowhere: with labels=input_ids, as every other causal
        model takes them, it learns to copy. huggingface/transformers#27517 and #30105 report it."""),
    _of("Mamba FalconMamba Jamba", "ForCausalLM", "kv.parity", kind="fault", why="""
        selective_scan is given no initial state: of several tokens after a prompt the convolution remembers the prompt,
        and the recurrence begins anew (the mixers of Mamba-2 pass initial_states, and agree). Steps of one token agree."""),
    _of("Bamba", "ForCausalLM", "kv.parity", kind="fault", why="""
        BambaModel.forward makes position_ids = arange(length) without the length of the cache: rotary angles begin anew
        with every step. With position_ids given the steps agree to 5e-8; generate() gives them."""),
    _of("Rwkv", "ForCausalLM", "kv.parity", kind="fault", why="""
        For one token, RwkvSelfAttention.extract_key_value adds state (batch, width) to hidden (batch, 1, width): three
        rows give three outputs of three positions each, rows mixed. One row agrees to 3e-7."""),
    _of("FSMT", "ForConditionalGeneration", "kv.parity", kind="fault", why="""
        With use_cache the decoder's causal mask is None (FSMTModel.forward): tokens of a prompt see those after them.
        Steps of one token agree."""),
    _of("MiniMax", "ForCausalLM", "decode.reorder", kind="fault", why="""
        MiniMaxCache overrides batch_select_indices and not reorder_cache: the states of its linear layers stay with the
        rows they were, which torch.equal before and after shows."""),
    _of("CpmAnt", "ForCausalLM", "causal.prefix_invariance", "prefix.length_invariance", "influence.map", "kv.parity",
        "decode.reorder", "pad.invariance", kind="limit", why="""
        CpmAntModel.forward marks every token as context, which all see: a text is read both ways, after 32 tokens of a
        prompt, and its length is counted by the id 0; attention_mask and the cache are as for a single growing text."""),
    _of("CpmAnt", "ForCausalLM", "loss.alignment", kind="fault", why="""
        Labels are compared with logits in their place and shifted nowhere."""),
    _of("CpmAnt", "ForCausalLM", "loss.init", "init.stats", kind="fault", why="""
        Weights are drawn with a deviation of 1 (init_std), the projection to the vocabulary too."""),
    _of("CpmAnt", "ForCausalLM", "params.sharing", kind="fault", why="""
        tie_word_embeddings is true, _tied_weights_keys is empty, and the two are two parameters."""),
    _of("Luke", "ForMaskedLM", "params.sharing", kind="fault", why="""
        tie_word_embeddings is true, and lm_head.decoder.weight is not among _tied_weights_keys: built from a config the
        two are two parameters."""),
    _of("MT5", "ForConditionalGeneration", "loss.init", kind="fault", why="""
        Without a tie T5's _init_weights draws lm_head with a deviation of 1, and its input is normed: scores deviate by
        √d_model, and training starts at 18 nats. huggingface/transformers#26441."""),
    _of("Funnel", "ForMaskedLM", "loss.init", kind="fault", why="""
        Without initializer_std the embedding is drawn with a deviation of 1, and it is tied to the output."""),
    _of("Funnel", "ForMaskedLM", "pad.invariance", kind="limit", why="""
        Blocks pool two neighbours into one by their mean, mask or none: the last real token is averaged with padding."""),
    _of("ConvBert", "ForMaskedLM", "pad.invariance", kind="limit", why="""
        Its convolutions over nine neighbours take no mask: what stands next to the last real tokens moves them."""),
    _of("Nystromformer", "ForMaskedLM", "pad.invariance", kind="limit", why="""
        The convolution over values takes no mask: padding beside the last real token moves it."""),
    _of("Yoso", "ForMaskedLM", "pad.invariance", kind="fault", why="""
        YosoSelfAttention reads the mask as 1 + mask / 10000, for masks of -10000; it is given a boolean one, and all it
        hands on is ones: padding is attended to."""),
    _of("Mra", "ForMaskedLM", "params.coverage", "influence.map", "pad.invariance", kind="limit", why="""
        Its attention is a CUDA kernel; without one mra2_attention returns zeros, silently, and no token is mixed with
        another."""),
    _of("NllbMoe", "ForConditionalGeneration", "backend.parity", kind="fault", why="""
        Experts' outputs are multiplied by 1 - moe_token_dropout in evaluation, as for a dropout that does not rescale,
        and pass through nn.Dropout in training, which does: what is expected of both differs by that factor."""),
)  # fmt: skip


def explained(name: str) -> dict[str, Explained]:
    """The checks of one architecture whose findings are explained."""
    return {check: cause for cause in CAUSES if name in cause.architectures for check in cause.checks}
