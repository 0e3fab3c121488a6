"""A `tokenizers` tokenizer from the lists that a GGUF file carries.

Byte-level BPE ("gpt2") comes with its merges and names its pre-tokenizer; scored sentencepiece
("llama") has none, its merges follow from the scores. What is not known is refused by name: ids can
still be given directly.
"""

from __future__ import annotations

from typing import Any

from programs.models.errors import ModelError
from programs.models.tokenizer import guarded

UNKNOWN, CONTROL, USER = 2, 3, 4  # tokenizer.ggml.token_type
# Splitting patterns of the models' own tokenizer.json; llama 3 keeps up to 3 digits together, qwen2 one.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama-bpe": WORDS.replace("DIGITS", r"\p{N}{1,3}"),
    "llama3": WORDS.replace("DIGITS", r"\p{N}{1,3}"),
    "qwen2": WORDS.replace("DIGITS", r"\p{N}"),
}
ADDS_BOS = ("llama-bpe", "llama3")  # where the file does not say


def build_tokenizer(entries: dict[str, Any], where: str) -> Any:
    """tokenizers.Tokenizer of the `tokenizer.ggml.*` entries (names without that prefix). Raises ModelError."""
    tokens = entries.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise ModelError(f"{where}: tokenizer.ggml.tokens is not a list of texts")
    for name in ("token_type", "scores"):
        if name in entries and (not isinstance(entries[name], list) or len(entries[name]) != len(tokens)):
            raise ModelError(f"{where}: tokenizer.ggml.{name} does not have {len(tokens)} entries")
    kinds = {"gpt2": _byte_level, "llama": _sentencepiece}
    if entries.get("model") not in list(kinds):
        raise ModelError(f"{where}: tokenizer {entries.get('model')!r} is not supported; give --prompt-ids")

    def build() -> Any:
        tokenizer = kinds[entries["model"]](entries, tokens, where)
        _special_tokens(tokenizer, entries, tokens)
        _added_ids(tokenizer, entries, tokens)
        return tokenizer

    return guarded(build, where)


def _byte_level(entries: dict[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = entries.get("merges")
    if not isinstance(merges, list) or any(not isinstance(m, str) or m.count(" ") != 1 for m in merges):
        raise ModelError(f"{where}: tokenizer.ggml.merges is not a list of pairs")
    pairs = [(left, right) for left, _, right in (m.partition(" ") for m in merges)]
    style = entries.get("pre", "default")
    tokenizer = Tokenizer(
        models.BPE(vocab=_numbered(tokens), merges=pairs, ignore_merges=style in ("llama-bpe", "llama3"))
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if style == "smollm":
        before: Any = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif style in PATTERNS:
        split = pre_tokenizers.Split(Regex(PATTERNS[style]), "isolated")
        before = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    elif style in ("default", "gpt-2"):
        before = byte_level
    else:
        raise ModelError(f"{where}: pre-tokenizer {style!r} is not supported; give --prompt-ids")
    if style == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(entries: dict[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = entries.get("scores")
    if scores is None:
        raise ModelError(f"{where}: tokenizer.ggml.scores is missing")
    kinds = entries.get("token_type", [1] * len(tokens))
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    model = models.BPE(
        vocab=_numbered(tokens), merges=merges_of_scores(tokens, scores), unk_token=unknown, byte_fallback=True,
        fuse_unk=True,
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    prefix = bool(entries.get("add_space_prefix", True))
    space = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space] if prefix else [space])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return tokenizer


def merges_of_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """BPE merges that do what sentencepiece does: join the pair whose piece has the best score.

    Every split of a piece into two pieces is a merge; better pieces first, among equals earlier
    pieces first. The same list as transformers' converter makes.
    """
    number = _numbered(tokens)
    found: list[tuple[float, int, int, int]] = []
    for token, index in number.items():
        for cut in range(1, len(token)):
            left, right = number.get(token[:cut]), number.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[index], index, left, right))
    return [(tokens[left], tokens[right]) for _, _, left, right in sorted(found)]


def _special_tokens(tokenizer: Any, entries: dict[str, Any], tokens: list[str]) -> None:
    from tokenizers import AddedToken

    for token, kind in zip(tokens, entries.get("token_type", []), strict=False):
        if kind in (UNKNOWN, CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])


def _added_ids(tokenizer: Any, entries: dict[str, Any], tokens: list[str]) -> None:
    """Begin and end tokens that the file says are added to every prompt."""
    from tokenizers import processors

    sentencepiece = entries.get("model") == "llama"
    begin = bool(entries.get("add_bos_token", sentencepiece or entries.get("pre") in ADDS_BOS))
    end = bool(entries.get("add_eos_token", False))
    template, added = ["$A"], []
    for wanted, key, place in ((begin, "bos_token_id", 0), (end, "eos_token_id", 1)):
        number = entries.get(key)
        if wanted and isinstance(number, int) and 0 <= number < len(tokens):
            added.append((tokens[number], number))
            template.insert(place * len(template), tokens[number])
    if added:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=added)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
