"""Text to token ids and back, through the `tokenizers` library (imported when first used)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from programs.models.errors import ModelError

TOKENIZER_BYTES = 64 << 20  # the largest public tokenizer.json is about 35 MB


class Tokenizer:
    """A model's tokenizer. `vocab` is the model's vocabulary: ids above it are refused."""

    def __init__(self, load: Callable[[], Any], vocab: int, where: str) -> None:
        self._load = load
        self._loaded: Any = None
        self._vocab = vocab
        self._where = where

    @property
    def _library(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt: what the tokenizer file itself adds is added, nothing else."""
        library = self._library
        ids: list[int] = guarded(lambda: library.encode(text).ids, self._where)
        if any(not 0 <= token < self._vocab for token in ids):
            raise ModelError(
                f"{self._where}: the tokenizer gives token {max(ids)}, the model's vocabulary has {self._vocab}"
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        library = self._library
        text: str = guarded(lambda: library.decode(list(ids), skip_special_tokens=True), self._where)
        return text

    def continuation(self, prompt: Sequence[int], generated: Sequence[int]) -> str:
        """Text that `generated` adds after `prompt`.

        Decoded together and cut, because sentencepiece drops the first space of what stands alone
        and a character may span two byte tokens.
        """
        before, both = self.decode(prompt), self.decode([*prompt, *generated])
        shared = 0
        while shared < min(len(before), len(both)) and before[shared] == both[shared]:
            shared += 1
        return both[shared:]


def guarded(call: Callable[[], Any], where: str) -> Any:
    """The result of a call into the library, whatever it raises turned into a ModelError.

    It raises plain Exception, and on some damaged files its Rust code panics, which is no Exception.
    """
    try:
        return call()
    except ModelError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{where}: not a tokenizer that can be used ({' '.join(str(error).split())[:160]})") from None


def tokenizer_file(path: Path, vocab: int) -> Tokenizer:
    """Tokenizer of a Hugging Face tokenizer.json; it is read and checked at the first use."""

    def load() -> Any:
        import tokenizers

        size = path.stat().st_size
        if size > TOKENIZER_BYTES:
            raise ModelError(f"{path}: {size} bytes, more than the {TOKENIZER_BYTES} such a file may have")
        return guarded(lambda: tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")), str(path))

    return Tokenizer(load, vocab, str(path))
