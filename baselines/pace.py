"""Requests and tokens a minute, kept below what an LLM's server allows."""

from __future__ import annotations

import asyncio
import time

_MINUTE_S = 60.0
_BURST_S = 5.0
"""Seconds' worth of requests that may go out at once, so that a run does not open with a minute's worth of them."""


class Pace:
    """Two leaky buckets: a request waits for both; its tokens are booked when they are known, and may leave a debt.

    Args:
        rpm: requests a minute; None for no limit.
        tpm: tokens a minute, prompt and completion; None for no limit.
    """

    def __init__(self, rpm: float | None = None, tpm: float | None = None) -> None:
        self._requests = _Bucket(rpm) if rpm is not None else None
        self._tokens = _Bucket(tpm) if tpm is not None else None

    async def request(self) -> None:
        """Returns when another request may go out."""
        for bucket, amount in ((self._requests, 1.0), (self._tokens, 0.0)):
            if bucket is not None:
                await bucket.take(amount)

    def used(self, tokens: int) -> None:
        """Books the tokens of a request."""
        if self._tokens is not None:
            self._tokens.add(tokens)


class _Bucket:
    """Fills by what is used, leaks at the rate; full means wait."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / _MINUTE_S
        self._size = max(1.0, self._rate * _BURST_S)
        self._level, self._seen = 0.0, time.monotonic()
        self._turn = asyncio.Lock()

    async def take(self, amount: float) -> None:
        async with self._turn:  # first come, first served
            while (excess := self._leak() + amount - self._size) > 1e-9:
                await asyncio.sleep(excess / self._rate)
            self._level += amount

    def add(self, amount: float) -> None:
        self._leak()
        self._level += amount

    def _leak(self) -> float:
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._seen) * self._rate)
        self._seen = now
        return self._level
