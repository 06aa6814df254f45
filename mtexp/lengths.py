"""Requests of many lengths: the tokens of each, and the sizes that they are padded to. Pure: standard library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

SMALLEST = 16
"""The smallest bucket where the user named none."""


class Sized(NamedTuple):
    """The tokens of one request, as it is issued."""

    input_tokens: int
    """Tokens of its prompt or text; 0 = those of the workload."""
    padded_tokens: int
    """The bucket that they are padded to: what is computed."""
    output_tokens: int
    """To generate; 0 = none, or as the workload says."""
    cache_tokens: int
    """Places in the KV cache in which it generates; 0 = it does not."""

    @property
    def shape(self) -> tuple[int, int]:
        """Equal for requests that run the same kernels."""
        return self.padded_tokens, self.cache_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of each request of a trace, in its order; empty = all requests are of the workload's size."""

    input_tokens: tuple[int, ...] = ()
    """As the trace has them, before any is cut."""
    output_tokens: tuple[int, ...] = ()
    """Tokens to generate, of each request; empty where requests do not generate."""
    buckets: tuple[int, ...] = ()
    """Sizes that input is padded to, ascending; what is longer than the last one is cut to it."""
    most_tokens: int = 0
    """Input and output of one request, at most; 0 = no bound."""
    unused: str = ""
    """Why the counts of the trace are not used; empty = they are, or it has none."""

    def __len__(self) -> int:
        return max(len(self.input_tokens), len(self.output_tokens))

    def of(self, number: int) -> Sized:
        """The size of request ``number`` of the trace."""
        given = min(self.input_tokens[number], self.buckets[-1]) if self.input_tokens else 0
        padded = next((bucket for bucket in self.buckets if bucket >= given), 0) if given else 0
        made = self.output_tokens[number] if self.output_tokens else 0
        if made and self.most_tokens:
            made = min(made, self.most_tokens - padded)
        total = power(padded + made) if made and padded else 0
        return Sized(given, padded, made, min(total, self.most_tokens or total))

    @property
    def sizes(self) -> tuple[Sized, ...]:
        """The size of each request."""
        return _sizes(self)

    @property
    def shapes(self) -> int:
        """How many kinds of requests run different kernels; 1 where all are of the workload's size."""
        return max(1, len({size.shape for size in self.sizes}))

    def warmups(self, asked: int) -> int:
        """Requests of a warm-up that is to have ``asked``: as many of each shape, and no fewer."""
        return -(-asked // self.shapes) * self.shapes

    @property
    def largest(self) -> Sized:
        """The request that needs the most memory."""
        return max(self.sizes, key=lambda size: (size.cache_tokens, size.padded_tokens, size.output_tokens))

    @property
    def ranges(self) -> dict[str, str]:
        """Smallest and largest size in words, by name of the workload's field."""
        found = {"seq_len": [s.padded_tokens for s in self.sizes], "new_tokens": [s.output_tokens for s in self.sizes]}
        return {name: _range(values) for name, values in found.items() if any(values)}

    @property
    def cut(self) -> int:
        """Requests that are shorter than in the trace."""
        asked = zip(self.input_tokens or self.output_tokens, self.output_tokens or self.input_tokens, strict=True)
        pairs = zip(asked, self.sizes, strict=True)
        return sum(
            bool(self.input_tokens and size.input_tokens < given)
            or bool(self.output_tokens and size.output_tokens < made)
            for (given, made), size in pairs
        )


@lru_cache(maxsize=64)
def _sizes(lengths: Lengths) -> tuple[Sized, ...]:
    return tuple(lengths.of(number) for number in range(len(lengths)))


def power(tokens: int) -> int:
    """The smallest power of two that holds so many."""
    return max(SMALLEST, 1 << max(0, tokens - 1).bit_length())


def powers(longest: int, most: int = 0) -> Iterator[int]:
    """Powers of two until one holds ``longest`` tokens; the last one is at most ``most`` (0 = no bound)."""
    bucket = SMALLEST
    while bucket < longest and not (most and bucket >= most):
        yield bucket
        bucket *= 2
    yield min(bucket, most or bucket)


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(high) if low == high else f"{low} to {high}"
