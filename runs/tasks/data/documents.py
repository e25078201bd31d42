"""Search in a few local documents by BM25 (Robertson and Zaragoza 2009, eq. 3.15, k1 = 1.2, b = 0.75)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_K1, _B = 1.2, 0.75


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Documents:
    """Texts and how often each word is in them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.counts = [Counter(_words(text)) for text in self.texts]
        self.lengths = [sum(counts.values()) for counts in self.counts]
        self.mean = sum(self.lengths) / max(1, len(self.lengths)) or 1.0
        self.holders = Counter(word for counts in self.counts for word in counts)

    def search(self, query: str, most: int = 3) -> list[str]:
        """The texts that fit best, the best first; none that shares no word with the query."""
        words = set(_words(query))
        scores = [self._score(words, place) for place in range(len(self.texts))]
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        return [self.texts[place] for place in order[:most] if scores[place] > 0]

    def _score(self, words: set[str], place: int) -> float:
        counts, length = self.counts[place], self.lengths[place] / self.mean
        return sum(
            math.log(1 + (len(self.texts) - self.holders[word] + 0.5) / (self.holders[word] + 0.5))
            * counts[word]
            * (_K1 + 1)
            / (counts[word] + _K1 * (1 - _B + _B * length))
            for word in sorted(words & counts.keys())
        )
