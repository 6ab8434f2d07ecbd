"""Numbers for texts: an index keeps 64 bits a value, whatever the text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import numpy as np

from storage.seq_slots import Numbers

_REMEMBERED: Final = 64
"""Parts of texts whose texts are remembered: to look a part up takes a look at every text."""


class Dictionary:
    """Codes from 0 on, in the order in which texts came. Guarded by its owner's mutex."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = list(texts)
        self._codes = {text: code for code, text in enumerate(self._texts)}
        self._containing: OrderedDict[str, tuple[int, list[int]]] = OrderedDict()
        """Of a part: how many texts were looked at, and the codes of those that contain it."""

    def __len__(self) -> int:
        return len(self._texts)

    def code(self, text: str) -> int:
        """Return the code of a text, a new one if it has none."""
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self._texts)
            self._texts.append(text)
        return code

    def find(self, text: str) -> int | None:
        """Return the code of a text, if it has one."""
        return self._codes.get(text)

    def text(self, code: int) -> str:
        """Return the text of a code."""
        return self._texts[code]

    def containing(self, part: str) -> list[int]:
        """Return the codes of the texts that contain a part, ascending."""
        looked, codes = self._containing.pop(part, (0, []))
        texts = self._texts[looked:] if looked else self._texts
        codes = codes + [code for code, text in enumerate(texts, looked) if part in text]
        self._containing[part] = (len(self._texts), codes)
        if len(self._containing) > _REMEMBERED:
            self._containing.popitem(last=False)
        return codes

    def only(self, codes: Numbers) -> Dictionary:
        """Return a dictionary of these texts alone, whose codes are their places in `codes`."""
        return Dictionary(self._texts[code] for code in np.asarray(codes).tolist())
