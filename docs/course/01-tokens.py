# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · Tokens
#
# A model computes with numbers. A tokenizer cuts a text into pieces of a fixed vocabulary, the tokens, and gives the
# number of each, its id. What the model writes are ids as well, and the tokenizer makes text of them.
#
# *You will see* text as bytes, how a vocabulary of longer pieces is found, and the two laws of a tokenizer. *You need*
# Python; from the next lesson on also PyTorch, as far as tensors, `nn.Module` and `backward()`. It runs in a few
# seconds.

# %% [markdown]
# ## Bytes
#
# In UTF-8 a letter of English is one byte, another character up to four. There are 256 different bytes. With them as
# vocabulary no text is ever unknown, in any script.

# %%
text = "März 東京"
print(len(text), "characters,", len(text.encode()), "bytes:", *text.encode())
print([character.encode() for character in text])

# %% [markdown]
# Tokens have to give back the text that they were cut from. But a token may be part of a character: bytes are put
# together first, and only then read as text. One at a time, they are not.

# %%
tokens = [bytes([byte]) for byte in text.encode()]
assert b"".join(tokens).decode() == text
"".join(token.decode(errors="replace") for token in tokens)

# %% [markdown]
# ## Merges
#
# Bytes make long sequences, and a model pays for every token. *Byte pair encoding* (Sennrich et al. 2016, algorithm 1;
# on bytes: Radford et al. 2019, §2.2) looks for the two neighbours that occur together most often, makes one token of
# them, and begins again. The four words and how often they occur are those of that algorithm.

# %%
from collections import Counter
from itertools import pairwise


def merged(tokens, pair):
    """The tokens of a word, with every occurrence of a pair made one token."""
    found = []
    for token in tokens:
        if found and (found[-1], token) == pair:
            found[-1] += token
        else:
            found.append(token)
    return found


def train(words, steps):
    """The merges, in the order in which they are found. Of pairs as frequent: the one whose tokens came first."""
    number = {bytes([byte]): byte for byte in range(256)}
    cut = {word: [bytes([byte]) for byte in word.encode()] for word in words}
    merges = []
    for _ in range(steps):
        counts = Counter()
        for word, tokens in cut.items():
            for pair in pairwise(tokens):
                counts[pair] += words[word]
        pair = min(counts, key=lambda pair: (-counts[pair], number[pair[0]], number[pair[1]]))
        merges.append(pair)
        number[pair[0] + pair[1]] = len(number)
        cut = {word: merged(tokens, pair) for word, tokens in cut.items()}
        print(f"{counts[pair]} times  {pair[0].decode():>3} + {pair[1].decode()}")
    return merges, cut


words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
merges, cut = train(words, 9)
print(*cut.values(), sep="\n")

# %% [markdown]
# The vocabulary has 256 bytes and one token for each merge. What is frequent becomes one token, what is rare stays
# several. A new text is cut by the same merges in the same order.
#
# ## In pellucid
#
# `Tokenizer.train` puts five special tokens before the bytes, and goes on in the same way. It finds the same merges.

# %%
import json

from pellucid.config.run import ByteBPE
from pellucid.data.tokenizers import Tokenizer
from pellucid.data.vocabularies import BYTE_OF


def as_bytes(token):
    """A token of pellucid's files, which have a printable character for every byte."""
    return bytes(BYTE_OF[character] for character in token)


def merges_of(tokenizer):
    pairs = json.loads(tokenizer.raw.to_str())["model"]["merges"]
    return [(as_bytes(left), as_bytes(right)) for left, right in pairs]


small = Tokenizer.train(ByteBPE(vocab_size=300), [word for word in words for _ in range(words[word])])
assert merges_of(small)[:9] == merges

# %% [markdown]
# Another comes along with the package, for a model that reads dates in 281 languages.

# %%
import pellucid as pl
from pellucid.explorer.opening import SHIPPED

tokenizer = pl.load(SHIPPED).tokenizer
print(tokenizer.vocab_size, "tokens")
for text in "Friday, 13 March 2071", "vendredi 13 mars 2071", "2071年3月13日", "🙂 paracetamol":
    ids = tokenizer.encode(text)
    print(f"{len(text.encode()):3} bytes, {len(ids):2} tokens ", tokenizer.pieces(ids))
    assert tokenizer.decode(ids) == text
print(tokenizer.encode(text))

# %% [markdown]
# No merge crosses the border of a word: a space goes with the letters after it, and up to four digits stand together.
# What no merge has made a piece of, such as the face, stays bytes.
#
# Special tokens stand for no text: where it begins, where it ends, what is padding. No text must turn into one, or
# whoever types `</s>` would end it.

# %%
print("the end is", tokenizer.eos, "and the text </s> is", tokenizer.encode("</s>"))
assert tokenizer.eos not in tokenizer.encode("</s>")

# %% [markdown]
# ## Exercise: the cut
#
# Write `encode`: the tokens of a text, as bytes. The merges come in the order in which they were found. There are two
# laws. Nothing is lost: the tokens, put together, are the text. And merges are applied in their order, or a model would
# be shown other tokens than it was trained on. What stands there takes the longest token that fits, from left to right,
# and keeps only the first.


# %%
from random import Random


def encode(text, merges):
    vocabulary = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    rest, tokens = text.encode(), []
    while rest:
        longest = max(filter(rest.startswith, vocabulary), key=len)  # your turn
        tokens.append(longest)
        rest = rest[len(longest) :]
    return tokens


def judge(encode):
    """Whether texts come back, and words are cut as by pellucid's tokenizers, each of a language of its own."""
    draw = Random(0)
    for letters in "abcdefgh", "aab", "äöüß東京", "абвгде":
        words = ["".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(120)]
        tokenizer = Tokenizer.train(ByteBPE(vocab_size=300), words[:60])
        known = {bytes([byte]) for byte in range(256)} | {left + right for left, right in merges_of(tokenizer)}
        for text in ["", "a b\n 🙂", *words]:
            try:
                tokens = list(encode(text, merges_of(tokenizer)))
                back = b"".join(tokens).decode(errors="replace")
            except Exception as error:
                return print(f"not yet: {text!r}: {type(error).__name__}: {error}")
            if back != text:
                return print(f"not yet: {text!r} comes back as {back!r}")
            if strange := [token for token in tokens if token not in known]:
                return print(f"not yet: {text!r} has a token that is not in the vocabulary, {strange[0]}")
            right = [as_bytes(token) for token in tokenizer.raw.encode(text).tokens]
            if text in words and tokens != right:
                return print(f"not yet: {text!r} is cut into {tokens}, and should be {right}")
    print("right")


judge(encode)

# %% [markdown]
# ## Solution


# %% tags=["solution"]
def solution(text, merges):
    tokens = [bytes([byte]) for byte in text.encode()]
    for pair in merges:
        tokens = merged(tokens, pair)
    return tokens


judge(solution)

# %% [markdown]
# ## Further
#
# - `pellucid explore` shows the tokens of any text, and their ids.
# - `pellucid train decoder --text notes.txt --out runs/notes tokenizer.kind=characters` cuts in another way; so do
#   `unigram` and `word_piece`. [The guide to training](../guides/training.md) says what else can be set.
# - One pass over all merges is slow. A fast tokenizer asks the other way round: of the pairs that are there, which was
#   found first?
# - What becomes of the ids: [embeddings](02-embeddings.py).
