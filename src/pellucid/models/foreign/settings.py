"""A published config.json, read so that no setting goes unnoticed: what we do not honour is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pellucid.config.parts import Activation
from pellucid.errors import ConfigError

T = TypeVar("T")

# What says nothing about the model's mathematics: notes on the file, how it was initialised, what a program was to
# return, and how to generate, which is read from the same file by whoever generates.
_NOTES = """
transformers.js_config is_llama_config n_special predict_special_tokens directionality pooler_fc_size
pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type force_bos_token_to_be_generated
save_step student_decoder_layers student_encoder_layers sliding_window_size max_sequence_length cache_implementation
_attn_implementation _attn_implementation_autoset _name_or_path _num_labels architectures attn_implementation
bad_words_ids begin_suppress_tokens bos_token_id decoder_start_token_id diversity_penalty do_sample dtype
early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_decoder_ids forced_eos_token_id gradient_checkpointing id2label init_std initializer_factor
initializer_range is_encoder_decoder label2id length_penalty max_length min_length model_type name_or_path
no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions
output_hidden_states output_past output_scores pad_token_id prefix remove_invalid_values repetition_penalty
return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
eos_token_ids unsloth_fixed unsloth_version
"""
HARMLESS = frozenset(_NOTES.split())

# Settings of every layout that we honour with one value alone.
FIXED: Mapping[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "auto_map": (None,),
    "chunk_size_feed_forward": (0,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "problem_type": (None, "single_label_classification"),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False,),
}

MOST_LAYERS = 10_000
MOST = 1 << 24
"""No number in a config.json is larger: what a file asks for is made before its weights are looked at."""

ACTIVATIONS: Mapping[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}

ACTIVATION_NAMES: Mapping[Activation, str] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "silu": "silu",
}


def written_labels(labels: tuple[str, ...]) -> dict[str, Any]:
    """Labels as a config.json has them."""
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


class Settings:
    """The settings of a config.json; each is asked for by whoever honours it.

    Args:
        values: what the file holds.
        where: the file, for messages.
    """

    def __init__(self, values: Mapping[str, Any], where: object) -> None:
        self.values, self.where = values, where
        self.asked: set[str] = set()

    def get(self, name: str, default: T) -> T:
        """A setting of the type of its default; ``null`` stands for the default too.

        Raises:
            ConfigError: for a value of another type.
        """
        self.asked.add(name)
        value = self.values.get(name)
        if value is None:
            return default
        kind = type(default)
        if kind is float and type(value) is int:
            return float(value)  # type: ignore[return-value]
        if default is not None and type(value) is not kind:
            raise ConfigError(self._named(name), f"found {value!r}", f"a value such as {default!r}")
        if kind is int and value < 0:
            raise ConfigError(self._named(name), f"found {value}", "0 or more")
        return self._bounded(name, value)

    def layers(self, name: str, default: int) -> int:
        """A number of layers.

        Raises:
            ConfigError: for none, or more than any model has.
        """
        found = self.get(name, default)
        if not 1 <= found <= MOST_LAYERS:
            raise ConfigError(self._named(name), f"found {found}", f"1 to {MOST_LAYERS}")
        return found

    def maybe(self, name: str) -> Any:
        """A setting, or ``None``.

        Raises:
            ConfigError: for a number that no model has.
        """
        self.asked.add(name)
        return self._bounded(name, self.values.get(name))

    def fixed(self, name: str, *honoured: object) -> None:
        """A setting that must have one of these values where it is given; the first is what its absence means.

        Raises:
            ConfigError: for any other.
        """
        self.asked.add(name)
        value = self.values.get(name, honoured[0])
        if value is not None and value not in honoured:
            choices = " or ".join(repr(choice) for choice in honoured)
            raise ConfigError(self._named(name), f"found {value!r}", choices, "no other value is supported")

    def unused(self, *names: str) -> None:
        """Settings that this layout has and that change nothing."""
        self.asked.update(names)

    def activation(self, name: str, default: str) -> Activation:
        """The activation a setting names.

        Raises:
            ConfigError: for one that is not supported.
        """
        found = self.get(name, default)
        if found not in ACTIVATIONS:
            raise ConfigError(self._named(name), f"found {found!r}", "one of " + ", ".join(ACTIVATIONS))
        return ACTIVATIONS[found]

    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier, in the order of its outputs.

        Raises:
            ConfigError: when they are not numbered from 0, or none.
        """
        named: Mapping[str, str] = self.values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        try:
            ordered = sorted(named.items(), key=lambda item: int(item[0]))
        except (ValueError, AttributeError):
            raise ConfigError(self._named("id2label"), f"found {named!r}", "labels by number") from None
        if [int(number) for number, _ in ordered] != list(range(len(named))) or not named:
            raise ConfigError(self._named("id2label"), f"found {dict(named)!r}", "labels, numbered from 0")
        labels = [label for _, label in ordered]
        # Two classes of ImageNet are both "crane".
        return tuple(f"{label} ({i})" if labels.count(label) > 1 else label for i, label in enumerate(labels))

    def finish(self) -> None:
        """To be called when everything has been asked.

        Raises:
            ConfigError: names the settings nobody asked for, unless they are off.
        """
        for name, honoured in FIXED.items():
            if name not in self.asked:
                self.fixed(name, *honoured)
        left = {
            name: value
            for name, value in self.values.items()
            if name not in self.asked and name not in HARMLESS and not self._off(value)
        }
        if left:
            listed = ", ".join(f"{name} = {value!r}" for name, value in list(left.items())[:6])
            hint = "a setting that changes nothing can be taken out of the file"
            raise ConfigError(self.where, f"{listed}: not known here, so not honoured", "settings we honour", hint)

    def _bounded(self, name: str, value: T) -> T:
        if isinstance(value, int) and abs(value) > MOST:
            raise ConfigError(self._named(name), f"found {value}", f"at most {MOST:,}")
        return value

    @staticmethod
    def _off(value: object) -> bool:
        return value in (None, False, 0, "", {}, [])

    def _named(self, name: str) -> str:
        return f"{self.where}: {name}"
