"""The tokenizer of a published folder, in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from pellucid.config.files import read_plain
from pellucid.data.conventions import Frame, conventions, template
from pellucid.data.sentencepiece import sentencepiece_tokenizer
from pellucid.data.tokenizers import KNOWN_AS, Tokenizer
from pellucid.errors import ConfigError, DataError, UserError

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
NAMES = (TOKENIZER_CONFIG, "special_tokens_map.json")
GENERATION = "generation_config.json"
SENTENCES = "sentence_bert_config.json"
TOLD = (GENERATION, "config.json", SENTENCES)
WORD_PIECES, PAIRS, MERGES, ADDED = "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"
MODULES = "modules.json"  # of sentence-transformers, which cut a text to the tokenizer's longest
NO_LIMIT = 1 << 30  # tokens, which no text has: a tokenizer without a limit says 10³⁰
AS_BERT = ("Bert", "DistilBert", "Electra", "MobileBert")  # tokenizers that cut as BERT's does
AS_GPT2 = ("GPT2", "Roberta", "Bart", "Whisper")  # those that cut as GPT-2's does
FRAMED = ("Roberta", "Bart")  # of those, the ones that put a text between <s> and </s>
SAVE = "save it whole: from transformers import AutoTokenizer; AutoTokenizer.from_pretrained(F).save_pretrained(F)"


def published_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, the vocabulary of a BERT or a GPT-2, or sentencepiece files.

    Raises:
        DataError: when there is none, or none that can be read.
        ConfigError: for settings that cannot be read.
    """
    settings, told = _merged(folder, NAMES), _merged(folder, TOLD)
    limit = settings.get("model_max_length")
    if (folder / MODULES).exists() and type(limit) is int and 0 < limit < NO_LIMIT:
        told.setdefault("max_seq_length", limit)
    names = {role: name.get("content") if isinstance(name, dict) else name for role, name in settings.items()}
    named = {role: name for role, name in names.items() if role.endswith("_token") and isinstance(name, str)}
    if (folder / TOKENIZER).exists():
        raw = Tokenizer.load(folder / TOKENIZER).raw
    elif (folder / WORD_PIECES).exists():
        kind = {"tokenizer_class": told.get("tokenizer_class", AS_BERT[0])}
        raw = _word_pieces(folder / WORD_PIECES, kind | settings)
    elif (folder / MERGES).exists():
        usual = FRAMED[0] if told.get("model_type") in ("roberta", "bart") else AS_GPT2[0]
        kind = {"tokenizer_class": told.get("tokenizer_class", usual)}
        raw = _byte_pairs(folder / MERGES, kind | settings, named)
    else:
        return _lowered(sentencepiece_tokenizer(folder, named, told), folder)
    return _lowered(Tokenizer(raw, conventions(raw, template(raw), named, told)), folder)


def _lowered(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The same, with lower case as its first step where sentence-transformers are told to put it there."""
    if (folder / SENTENCES).exists() and read_plain(folder / SENTENCES).get("do_lower_case"):
        found = tokenizer.raw.normalizer
        parts = [found[i] for i in range(len(found))] if isinstance(found, normalizers.Sequence) else [found]
        steps = [step for step in parts if step is not None]
        if not any(isinstance(step, normalizers.Lowercase) for step in steps):
            tokenizer.raw.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    return tokenizer


def _kind(path: Path, settings: Mapping[str, Any], known: Sequence[str]) -> str:
    """Which tokenizer a vocabulary alone is for; raises DataError for one that does not cut as those that are known."""
    named = str(settings["tokenizer_class"])
    kind = named.removesuffix("Fast").removesuffix("Tokenizer")
    if kind not in known:
        found = f"a {named} with {path.name} alone, which does not say how it cuts"
        raise DataError(path.parent, found, TOKENIZER, SAVE)
    return kind


def _word_pieces(path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's vocabulary, one piece a line (Devlin et al. 2019), for a tokenizer that cuts as BERT's does."""
    _kind(path, settings, AS_BERT)
    try:
        raw = tokenizers.Tokenizer(models.WordPiece.from_file(str(path), unk_token="[UNK]"))
    except Exception as error:  # the library raises bare exceptions
        raise DataError(path, f"cannot be read ({error})", "one piece a line", "copy it again") from None
    if missing := [name for name in ("[CLS]", "[SEP]", "[UNK]") if raw.token_to_id(name) is None]:
        raise DataError(path, f"has no {', '.join(missing)}", "a vocabulary of BERT, one piece a line", SAVE)
    _check_added(path.parent, raw)
    try:
        raw.normalizer = normalizers.BertNormalizer(
            lowercase=settings.get("do_lower_case", True),
            strip_accents=settings.get("strip_accents"),  # where nothing is said, as lower case has it
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        )
    except TypeError as error:
        raise ConfigError(path.parent / TOKENIZER_CONFIG, str(error), "true or false", "mend the setting") from None
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    _mark_special(raw)
    _frame(raw, ["[CLS]"], ["[SEP]"])
    return raw


def _byte_pairs(path: Path, settings: Mapping[str, Any], named: Mapping[str, str]) -> tokenizers.Tokenizer:
    """GPT-2's vocabulary and merges (Radford et al. 2019), which RoBERTa and BART put between <s> and </s>."""
    folder, kind = path.parent, _kind(path, settings, AS_GPT2)
    try:
        model = models.BPE.from_file(str(folder / PAIRS), str(path))
    except Exception as error:  # the library raises bare exceptions
        raise DataError(path, f"cannot be read ({error})", f"{PAIRS} beside it", "copy both again") from None
    raw = tokenizers.Tokenizer(model)
    _check_added(folder, raw)
    try:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
    except TypeError as error:
        raise ConfigError(folder / TOKENIZER_CONFIG, str(error), "true or false", "mend the setting") from None
    raw.decoder = decoders.ByteLevel()
    _mark_special(raw)
    if kind in FRAMED:
        _frame(raw, ["<s>"], ["</s>"], ["</s>", "</s>", "$B", "</s>"])
    elif kind == AS_GPT2[0]:
        before, after = (_asked(raw, folder / PAIRS, settings, named, role) for role in ("bos", "eos"))
        if before or after:
            _frame(raw, before, after)
    return raw


def _asked(
    raw: tokenizers.Tokenizer, path: Path, settings: Mapping[str, Any], named: Mapping[str, str], role: str
) -> list[str]:
    """The token that GPT-2's own tokenizer puts at an end of a text where it is told to."""
    if not settings.get(f"add_{role}_token"):
        return []
    name = named.get(f"{role}_token", "<|endoftext|>")
    if raw.token_to_id(name) is None:
        raise DataError(path, f"has no {name!r}", f"the {role}_token, which add_{role}_token puts around a text", SAVE)
    return [name]


def _check_added(folder: Path, raw: tokenizers.Tokenizer) -> None:
    """Raises DataError for a token beside the vocabulary: the file does not say where a text is cut for it."""
    added = read_plain(folder / ADDED) if (folder / ADDED).exists() else {}
    if more := [name for name, number in added.items() if raw.token_to_id(name) != number]:
        raise DataError(folder / ADDED, f"adds {more[0]!r}, without saying how texts are cut there", TOKENIZER, SAVE)


def _mark_special(raw: tokenizers.Tokenizer) -> None:
    """Makes the usual names, as far as a vocabulary has them, stand for no text."""
    known = {name for role in KNOWN_AS.values() for name in role if raw.token_to_id(name) is not None}
    raw.add_special_tokens([AddedToken(name, special=True) for name in sorted(known)])


def _merged(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    """The settings of several files, of which the first that says something counts.

    Raises:
        ConfigError: for a file that cannot be read.
    """
    merged: dict[str, Any] = {}
    for name in reversed(files):
        if (folder / name).exists():
            merged |= {key: value for key, value in read_plain(folder / name).items() if value is not None}
    return merged


# ---- out ---------------------------------------------------------------------------------------


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, family: str, longest: int | None, *, typed: bool = False
) -> dict[str, Any]:
    """Writes the files by which Hugging Face's libraries cut texts as we do; returns the special tokens by their ids.

    Args:
        family: ``encoder``, ``decoder`` or ``encoder_decoder``, which decides what stands around a text.
        longest: the positions of the model, where they are limited.
        typed: whether the model is told which text of a pair a token belongs to.

    Raises:
        UserError: for a tokenizer that writes in another vocabulary than it reads.
    """
    if tokenizer.target is not tokenizer:
        raise UserError(
            "convert", "two vocabularies, of which the format has one", "a model with a vocabulary for both"
        )
    raw = tokenizers.Tokenizer.from_str(tokenizer.raw.to_str())
    if (frame := _around(tokenizer, family)) != template(raw):
        before, after = ([name for i in ids if (name := raw.id_to_token(i)) is not None] for ids in frame)
        _frame(raw, before, after)
    bos = next(iter(tokenizer.start), None) if family == "decoder" else tokenizer.bos
    roles = {"pad": tokenizer.pad, "unk": tokenizer.unk, "bos": bos, "eos": tokenizer.eos, "mask": tokenizer.mask}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({"model_max_length": longest} if longest else {}),
        **{f"{role}_token": raw.id_to_token(i) for role, i in roles.items() if i is not None},
    }
    ids = _ids(tokenizer, family, bos)
    raw.save(str(folder / TOKENIZER))
    _write(folder / TOKENIZER_CONFIG, settings)
    if family != "encoder":
        _write(folder / GENERATION, ids)
    return ids


def _around(tokenizer: Tokenizer, family: str) -> Frame:
    if tokenizer.conventions is not None:
        return tokenizer.conventions.before, tokenizer.conventions.after
    match family:
        case "encoder":
            return (tokenizer.require("bos"),), (tokenizer.require("eos"),)
        case "encoder_decoder":
            return (), (tokenizer.require("eos"),)
        case _:
            return (), ()


def _frame(raw: tokenizers.Tokenizer, before: list[str], after: list[str], second: list[str] | None = None) -> None:
    """Lets a tokenizer of the library put these tokens around a text; of a pair, the second follows as in BERT.

    Args:
        second: what stands behind the first text of a pair, where it is something else.
    """
    known = [(name, raw.token_to_id(name)) for name in dict.fromkeys(before + after)]
    pair = second or [*after, "$B:1", *(f"{name}:1" for name in after)]
    raw.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", *pair], special_tokens=known
    )


def _ids(tokenizer: Tokenizer, family: str, bos: int | None) -> dict[str, Any]:
    ends, forced = list(tokenizer.ends), list(tokenizer.forced)
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad, "bos_token_id": bos}
    ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    if never := list(tokenizer.conventions.never) if tokenizer.conventions else []:
        ids["suppress_tokens"] = never
    if family == "encoder_decoder":
        ids["decoder_start_token_id"] = next(iter(tokenizer.start), None)
        ids["forced_bos_token_id"] = next(iter(forced), None)
        ids["forced_eos_token_id"] = None  # some layouts force an id of their own where nothing is said
    return ids


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
