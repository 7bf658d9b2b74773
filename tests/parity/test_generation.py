"""What is written is what ``transformers`` writes: greedily and by beams, cached and not, padded or alone."""

import pytest
import torch

pytest.importorskip("transformers")

from parity.cases import CASES
from parity.test_parity import folders, rows  # noqa: F401
from pellucid.inference.beam import Power, beam_search
from pellucid.inference.decode import Prompt, generate, prefill, step

LENGTH = 9
DECODERS = [case for case in CASES if case.model.endswith(("CausalLM", "LMHeadModel"))]
# Left padding moves the absolute positions of these in the oracle, which takes no positions of ours.
PAIRS = [case for case in CASES if "Cond" in case.model or "MT" in case.model]
decoders = pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)
pairs = pytest.mark.parametrize("case", PAIRS, ids=lambda case: case.name)


def said(oracle, *, keep=None, **given):
    """The new tokens of each row up to the end, by the oracle."""
    config = oracle.generation_config
    config.forced_eos_token_id = config.forced_bos_token_id = None
    beams = given.get("num_beams", 1)
    more = {"early_stopping": "never"} if beams > 1 else {}  # the search that gives up nothing that could win
    with torch.no_grad():
        out = oracle.generate(
            max_new_tokens=LENGTH, do_sample=False, eos_token_id=2, pad_token_id=given.pop("pad"), **more, **given
        )
    start = given["input_ids"].size(1) if not oracle.config.is_encoder_decoder else 1
    return [until_end(row) for row in out[:, start:].tolist()]


def until_end(row):
    return row[: row.index(2)] if 2 in row else row


def writes(oracle, padding):
    pad = oracle.config.pad_token_id or 0
    tokens, keep = rows(61, padding, pad)
    return tokens, keep, pad


@decoders
@pytest.mark.parametrize("padding", ["none", "left"])
def test_greedy_decoders(case, padding, folders):  # noqa: F811
    _, oracle, ours = folders(case)
    tokens, keep, pad = writes(oracle, padding)
    theirs = said(oracle, input_ids=tokens, attention_mask=keep.long(), pad=pad)
    uncached = said(oracle, input_ids=tokens, attention_mask=keep.long(), pad=pad, use_cache=False)
    mine = generate(ours, Prompt(tokens, keep=None if padding == "none" else keep), max_new_tokens=LENGTH, ends=(2,))
    assert mine == theirs == uncached


@decoders
def test_beams_of_decoders(case, folders):  # noqa: F811
    _, oracle, ours = folders(case)
    tokens, keep, pad = writes(oracle, "left")
    theirs = said(oracle, input_ids=tokens, attention_mask=keep.long(), pad=pad, num_beams=4, length_penalty=1.0)
    found = beam_search(ours, Prompt(tokens, keep=keep), beams=4, max_new_tokens=LENGTH, ends=(2,), penalty=Power(1.0))
    assert [list(best[0].tokens) for best in found] == theirs


@decoders
def test_a_cached_step_gives_the_scores_of_the_whole(case, folders):  # noqa: F811
    _, oracle, ours = folders(case)
    tokens, keep, _ = writes(oracle, "left")
    with torch.no_grad():
        logits, state = prefill(ours, Prompt(tokens[:, :6], keep=keep[:, :6]), 5)
        found = [logits, *(step(state, tokens[:, i]) for i in range(6, 10))]
        positions = (keep.cumsum(1) - 1).clamp(min=0)
        whole = oracle(tokens, attention_mask=keep.long(), position_ids=positions).logits
    for i, scores in enumerate(found):
        real = keep[:, 5 + i]
        scale = whole[real].abs().max()
        assert (scores - whole[:, 5 + i])[real].abs().max() <= 1e-5 * scale


@pairs
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("alpha", [0.6, 2.0])
def test_pairs(case, beams, alpha, folders):  # noqa: F811
    _, oracle, ours = folders(case)
    start = torch.full((3, 1), oracle.config.decoder_start_token_id)
    if case.kind == "whisper":
        torch.manual_seed(8)
        source, keep = torch.randn(3, oracle.config.num_mel_bins, 40), None
        given = {"input_features": source}
    else:
        source, keep, _ = writes(oracle, "right")
        given = {"input_ids": source, "attention_mask": keep.long()}
    pad = oracle.config.pad_token_id
    if case.kind == "whisper":  # its own generate does much else; the plain one is what is compared
        given["decoder_input_ids"] = start
        import transformers

        plain = transformers.GenerationMixin.generate
        with torch.no_grad():
            more = {"early_stopping": "never"} if beams > 1 else {}
            out = plain(
                oracle,
                max_new_tokens=LENGTH,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=pad,
                num_beams=beams,
                length_penalty=alpha,
                **more,
                **given,
            )
        theirs = [until_end(row) for row in out[:, 1:].tolist()]
    else:
        theirs = said(oracle, pad=pad, num_beams=beams, length_penalty=alpha, **given)
    prompt = Prompt(start, source=source, source_keep=keep)
    if beams == 1:
        assert generate(ours, prompt, max_new_tokens=LENGTH, ends=(2,)) == theirs
        return
    found = beam_search(ours, prompt, beams=beams, max_new_tokens=LENGTH, ends=(2,), penalty=Power(alpha))
    assert [list(best[0].tokens) for best in found] == theirs
