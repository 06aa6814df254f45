"""Memory that a tenant writes and the parent reads while it runs. May touch: numpy, mmap; never torch.

Both are files in the run's directory, mapped by both sides: what was measured is on disk whichever side is killed.
The loop writes through ``memoryview``s (a store is some 30 ns), the parent reads through numpy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from mtexp.metrics.samples import Samples

TOKENS = ("input_tokens", "padded_tokens", "output_tokens")
COLUMNS = ("arrival_ns", "start_ns", "end_ns", "first_token_ns", "gpu_time_ns", "enqueue_ns", *TOKENS)
BLOCK, BLOCK_START_NS, BLOCK_END_NS = 1, 2, 3
"""Words of the board that announce a block: its number from 1, its start, its end."""
ACTIVE, CORE, COUNTED, OVER = 3, 4, 5, 6
"""Words of a tenant's slot: the parent writes the last block in which it is active and the core to move to (from 1,
0 = stay); the tenant writes the last block whose requests that count have ended, and the last that it has left."""
NEVER = 2**62
"""The number of a block that never comes: where a tenant has left the gate."""
_WORD = 8
_SLOT = 8  # words: one cache line a tenant, so that tenants do not invalidate each other's
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)
_PREFAULTED = 8192  # rows touched before the window; later ones cost one minor fault per 512 iterations and column


def _map(path: Path, words: int, create: bool) -> mmap.mmap:
    with path.open("x+b" if create else "r+b") as file:
        if create:
            os.posix_fallocate(file.fileno(), 0, words * _WORD)  # a full disk is an error here, not a SIGBUS later
        return mmap.mmap(file.fileno(), words * _WORD)


class Board:
    """Stop flag of the run and progress of each tenant.

    ``words[0]`` is the stop flag, and after it come the words of the current block (:data:`BLOCK`); the slot of tenant
    ``i`` starts at ``8 * (1 + i)``: iterations measured, done flag, looks for an arrival or a block, and its words of
    the block (:data:`ACTIVE`).
    """

    def __init__(self, path: Path, tenants: int, *, create: bool = False) -> None:
        self._map = _map(path, _SLOT * (1 + tenants), create)
        self.words = memoryview(self._map).cast("q")

    def stop(self) -> None:
        """Tell every tenant to stop after its current iteration."""
        self.words[0] = 1

    @property
    def stopped(self) -> bool:
        """Whether the stop flag is raised, by the parent, or by a tenant that fails or was asked to end."""
        return bool(self.words[0])

    def measured(self, slot: int) -> int:
        """Iterations that the tenant has measured so far."""
        return self.words[_SLOT * (1 + slot)]

    def heartbeat(self, slot: int) -> int:
        """Grows as long as the tenant is alive: iterations, and looks for an arrival or a block while there is none."""
        own = _SLOT * (1 + slot)
        return self.words[own] + self.words[own + 2]

    def done(self, slot: int) -> bool:
        """True when the tenant will measure no more (fixed protocol, trace at its end, no room)."""
        return bool(self.words[_SLOT * (1 + slot) + 1])

    def open_block(
        self, number: int, start_ns: int, end_ns: int, active: Collection[int], cores: Mapping[int, int]
    ) -> None:
        """Announce block ``number`` (1, 2 ...) to the tenants at the gate.

        Args:
            number: One more than that of the block before.
            start_ns: When it starts, on the monotonic clock.
            end_ns: Requests that start later do not count.
            active: Slots of the tenants that issue requests in it.
            cores: By slot: the core that a tenant moves to before the block, active or not.
        """
        for slot in active:
            self.slot(slot)[ACTIVE] = number
        for slot, core in cores.items():
            self.slot(slot)[CORE] = core + 1
        self.words[BLOCK_START_NS], self.words[BLOCK_END_NS] = start_ns, end_ns
        self.words[BLOCK] = number  # last: who sees it sees the rest

    def left(self, slot: int) -> int:
        """Number of the last block that the tenant has left: none of its requests is in flight any more."""
        return self.words[_SLOT * (1 + slot) + OVER]

    def counted_words(self, number: int) -> list[int]:
        """Places of the :data:`COUNTED` words of all tenants that are active in block ``number``."""
        slots = range(_SLOT, len(self.words), _SLOT)
        return [place + COUNTED for place in slots if self.words[place + ACTIVE] == number]

    def slot(self, slot: int) -> memoryview:
        """The tenant's own words, for the loop."""
        return self.words[_SLOT * (1 + slot) : _SLOT * (2 + slot)]

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._map.close()


class SampleBuffer:
    """Preallocated columns of int64, one row an iteration, zero where nothing was stored.

    Header words: rows written; how many, from the first on, are or will be warm-up.
    """

    def __init__(self, path: Path, capacity: int = 0, *, create: bool = False) -> None:
        if not create:
            capacity = path.stat().st_size // _WORD // len(COLUMNS) - _SLOT
        self.path, self.capacity = path, capacity
        self._map = _map(path, len(COLUMNS) * (capacity + _SLOT), create)
        words = memoryview(self._map).cast("q")
        self.header = words[:_SLOT]
        body = len(COLUMNS) * _SLOT
        self.columns = {name: words[body + i * capacity : body + (i + 1) * capacity] for i, name in enumerate(COLUMNS)}

    def prefault(self) -> None:
        """Touch the first rows so that the loop takes no page fault for them."""
        for column in self.columns.values():
            np.frombuffer(column, dtype=np.int64)[:_PREFAULTED] = 0

    def release_unused(self) -> bool:
        """Give the room of rows that were never written back to the disk; the rows that were stay as they are.

        Returns:
            Whether the file system did it: tmpfs, ext4, xfs and btrfs do.
        """
        libc, done = ctypes.CDLL(None, use_errno=True), True
        rows = self.header[0]
        with self.path.open("r+b") as file:
            for number in range(len(COLUMNS)):
                first = len(COLUMNS) * _SLOT + number * self.capacity
                where, length = (ctypes.c_int64(_WORD * words) for words in (first + rows, self.capacity - rows))
                if length.value:
                    mode = ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE)
                    done &= libc.fallocate(ctypes.c_int(file.fileno()), mode, where, length) == 0
        return done

    def samples(self) -> Samples:
        """A copy of the rows written so far."""
        rows, warmup = self.header[0], self.header[1]
        data = {name: np.frombuffer(view, dtype=np.int64)[:rows].copy() for name, view in self.columns.items()}
        return Samples(
            phase=(np.arange(rows) >= warmup).astype(np.uint8),
            arrival_ns=np.where(data["arrival_ns"] == 0, data["start_ns"], data["arrival_ns"]),
            start_ns=data["start_ns"],
            end_ns=data["end_ns"],
            first_token_ns=data["first_token_ns"],
            gpu_time_ns=np.where(data["gpu_time_ns"] == 0, -1, data["gpu_time_ns"]),
            enqueue_ns=data["enqueue_ns"],
            **{name: data[name] for name in TOKENS},
        )
