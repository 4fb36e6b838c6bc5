"""How often a bank may ask: a bucket that holds five seconds' worth and fills steadily.

>>> at = iter([0.0, 0.0, 0.0, 1.0])
>>> allowance = Allowance(per_s=0.2, clock=lambda: next(at))   # a bucket of one, full again after five seconds
>>> [allowance.take() for _ in range(3)]
[True, False, False]
"""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_S = 5.0


class Allowance:
    """Requests that one bank may still make."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s * BURST_S)
        self._left, self._at = self._most, clock()

    def take(self) -> bool:
        """Whether one more request is within bounds; if so, it is counted."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
