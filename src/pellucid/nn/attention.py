"""Attention: queries look at keys and gather values.

Shapes: B batch, T queries, S keys, D d_model, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from pellucid.nn.cache import NO_CACHE, Heads, LayerCache
from pellucid.nn.joint import joint
from pellucid.nn.kernels import Kernel, explicit
from pellucid.nn.masks import Mask
from pellucid.nn.operations import Mixture, Remembered, Rule, Scores, Turned
from pellucid.nn.positions import unrotated
from pellucid.trace import Linear, Operation, Softmax, Tapped

Rotate = Callable[[Tensor], Tensor]


class Attention(Tapped):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2); grouped-query when G < H (Ainslie et al. 2023).

    Self-attention when ``source`` is ``x``, cross-attention when it is another sequence.

    Args:
        d_source: width of the source, where it is not that of the queries.
        head_norm: makes the norms over each head of queries and of keys; identities for none.
        scale: what the products are multiplied by; 1/√K by default.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        d_source: int | None = None,
        bias: bool,
        key_bias: bool,
        out_bias: bool,
        head_norm: Callable[[], nn.Module],
        scale: float | None,
        softcap: float | None,
        dropout: float,
        kernel: Kernel,
    ) -> None:
        super().__init__()
        self.head_dim, self.kernel, self.dropout = head_dim, kernel, dropout
        self.scale, self.softcap = head_dim**-0.5 if scale is None else scale, softcap
        d_source = d_model if d_source is None else d_source
        self.query = nn.Linear(d_model, num_heads * head_dim, bias=bias)
        self.key = nn.Linear(d_source, num_kv_heads * head_dim, bias=key_bias)
        self.value = nn.Linear(d_source, num_kv_heads * head_dim, bias=bias)
        self.out = nn.Linear(num_heads * head_dim, d_model, bias=out_bias)
        self.query_norm, self.key_norm = head_norm(), head_norm()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        source: Float[Tensor, "B S E"],
        *,
        mask: Mask,
        rotate: Rotate = unrotated,
        cache: LayerCache = NO_CACHE,
    ) -> Float[Tensor, "B T D"]:
        if source is x:
            queries, keys, values = joint(x, (self.query, self.key, self.value))
            k, v = cache.keys_values(lambda: self.heads(keys, values, x, rotate))
        else:
            queries = self.query(x)
            k, v = cache.keys_values(lambda: self.project(source, rotate))
        queries = self.query_norm(self.tap("q_projected", self._split(queries), x))
        q = self.tap("q", rotate(queries), queries, rotate)
        k, v = self.tap("k", k, mask), self.tap("v", v, mask)

        # Fused kernels never store the weights; to show them we compute them.
        kernel = explicit if self.is_watched("mask", "scores", "weights") else self.kernel
        dropout = self.dropout if self.training else 0.0
        context = kernel(q, k, v, mask, scale=self.scale, softcap=self.softcap, dropout=dropout, tap=self.tap)
        return self.tap("out", self.out(context.transpose(1, 2).flatten(2)), context)

    def project(self, source: Float[Tensor, "B S E"], rotate: Rotate = unrotated) -> tuple[Heads, Heads]:
        """Keys and values of a source."""
        keys, values = joint(source, (self.key, self.value))
        return self.heads(keys, values, source, rotate)

    def heads(
        self,
        keys: Float[Tensor, "B S GK"],
        values: Float[Tensor, "B S GK"],
        source: Float[Tensor, "B S E"],
        rotate: Rotate = unrotated,
    ) -> tuple[Heads, Heads]:
        """Keys and values projected from a source, as heads."""
        projected = self.key_norm(self.tap("k_projected", self._split(keys), source))
        k = self.tap("k_new", rotate(projected), projected, rotate)
        return k, self.tap("v_new", self._split(values), source)

    def operation(self, name: str) -> Operation:
        match name:
            case "q_projected":
                return Linear(self.query, self.named("query"), head_dim=self.head_dim)
            case "k_projected":
                return Linear(self.key, self.named("key"), head_dim=self.head_dim)
            case "v_new":
                return Linear(self.value, self.named("value"), head_dim=self.head_dim)
            case "q" | "k_new":
                return Turned()
            case "k" | "v":
                return Remembered()
            case "mask":
                return Rule()
            case "scores":
                return Scores(self.scale, self.softcap)
            case "weights":
                return Softmax()
            case "context":
                return Mixture(self.scale, self.softcap)
            case _:
                return Linear(self.out, self.named("out"), of_heads=True)

    def _split(self, x: Tensor) -> Heads:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
