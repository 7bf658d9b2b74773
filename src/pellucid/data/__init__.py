"""Text to batches: tokenizers, corpora, the catalogue of published data sets, objectives, shards."""

from pellucid.data.batch import IGNORE, Batch, TrainingBatches
from pellucid.data.batches import evaluation_batches, training_batches
from pellucid.data.catalog import CATALOG, get, load_catalog
from pellucid.data.corpora import BUILT_IN, load_corpus
from pellucid.data.corpus import Corpus, Labelled, Pair
from pellucid.data.shards import Shards, write_shards
from pellucid.data.tokenizers import Tokenizer

__all__ = [
    "BUILT_IN",
    "CATALOG",
    "IGNORE",
    "Batch",
    "Corpus",
    "Labelled",
    "Pair",
    "Shards",
    "Tokenizer",
    "TrainingBatches",
    "evaluation_batches",
    "get",
    "load_catalog",
    "load_corpus",
    "training_batches",
    "write_shards",
]
