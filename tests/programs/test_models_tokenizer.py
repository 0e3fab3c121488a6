"""Tokenizers: prompts of the references, continuations, and damaged files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from programs.models.checkpoint import FOLDER, load_model
from programs.models.errors import ModelError
from programs.models.gguf_tokenizer import build_tokenizer, merges_of_scores
from programs.models.tokenizer import Tokenizer, guarded, tokenizer_file
from tests.models import shared_checkpoint, smollm2


@pytest.mark.parametrize("checkpoint", ["tiny_kjv", "stories260K"])
def test_prompts_and_continuations_of_the_references(checkpoint: str) -> None:
    folder = FOLDER / "tiny_kjv" if checkpoint == "tiny_kjv" else shared_checkpoint(checkpoint)
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    for case in json.loads((folder / "reference.json").read_text()).values():
        if isinstance(case, dict):
            assert tokenizer.encode(case["prompt"]) == case["prompt_ids"]
            text = tokenizer.continuation(case["prompt_ids"], case["greedy_ids"])
            whole = case["text"].removeprefix(case["prompt"])
            # sentencepiece: after a prompt that is only BOS, the first space is the tokenizer's own
            assert text == whole or text == whole.lstrip(" ")


def test_continuation_keeps_the_space_and_joins_split_characters() -> None:
    tokenizer = load_model("tiny_kjv").tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode("And it came to pass")
    assert tokenizer.continuation(ids[:2], ids[2:]) == tokenizer.decode(ids)[len(tokenizer.decode(ids[:2])) :]
    accent = tokenizer.encode("caf\u00e9")  # the last letter is two byte tokens
    assert tokenizer.continuation(accent[:-1], accent[-1:]) == "\u00e9"
    assert tokenizer.continuation(ids, []) == ""


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"{", b'{"model": {"type": "BPE", "vocab": [1], "merges": []}}', b"\xff"]
)
def test_damaged_tokenizer_is_refused_when_it_is_used(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    tokenizer = tokenizer_file(tmp_path / "tokenizer.json", 100)
    with pytest.raises(ModelError, match="tokenizer.json: not a tokenizer that can be used"):
        tokenizer.encode("hello")


def test_panic_of_the_library_is_refused_but_an_interrupt_is_not_swallowed() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it, e.g. for a decoder that strips 2**63 characters."""

    def fail(error: BaseException) -> None:
        raise error

    with pytest.raises(ModelError, match="x: not a tokenizer that can be used .index out of bounds: len 0"):
        guarded(lambda: fail(PanicException("index out of bounds:\n len 0")), "x")
    with pytest.raises(KeyboardInterrupt):
        guarded(lambda: fail(KeyboardInterrupt()), "x")


def test_oversized_tokenizer_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate((64 << 20) + 1)  # a sparse file
    with pytest.raises(ModelError, match="67108865 bytes, more than the 67108864"):
        tokenizer_file(tmp_path / "tokenizer.json", 100).encode("hello")


def test_ids_beyond_the_model_s_vocabulary_are_refused() -> None:
    tokenizer = tokenizer_file(FOLDER / "tiny_kjv" / "tokenizer.json", 300)
    with pytest.raises(ModelError, match="the tokenizer gives token 802, the model's vocabulary has 300"):
        tokenizer.encode("In the beginning")


def test_merges_follow_from_scores() -> None:
    # "ab" has the better score and is joined first; "abc" can be made from ab + c and a + bc
    merges = merges_of_scores(["a", "b", "c", "bc", "ab", "abc"], [0.0, 0.0, 0.0, -2.0, -1.0, -3.0])
    assert merges == [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]


def test_scored_pieces_tokenize_like_the_converted_tokenizer() -> None:
    """stories260K comes twice: as scored pieces (llama2.c's tok512.bin) and as a tokenizer.json."""
    folder = shared_checkpoint("stories260K")
    data = (folder / "tok512.bin").read_bytes()
    pieces, scores, offset = [], [], 4
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        pieces.append(data[offset + 8 : offset + 8 + length].decode().replace(" ", "\u2581"))
        scores.append(score)
        offset += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    pieces[3:259] = [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259)
    entries = {"model": "llama", "tokens": pieces, "scores": scores, "token_type": kinds, "bos_token_id": 1}
    built = Tokenizer(lambda: build_tokenizer(entries, "test"), 512, "test")
    converted = load_model(folder).tokenizer
    assert converted is not None
    for text in ("Once upon a time", "Lily said, \"Hi!\" 12 caf\u00e9", "  two  spaces", "", "\u65e5\u672c"):
        ids = built.encode(text)
        assert ids == converted.encode(text)
        assert built.decode(ids) == converted.decode(ids)


def byte_level(**changes: object) -> dict[str, object]:
    """A GGUF tokenizer of 256 bytes, a merge and a special token."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = sorted(ByteLevel.alphabet()) + ["he", "<|end|>"]
    entries: dict[str, object] = {
        "model": "gpt2", "pre": "smollm", "tokens": tokens, "merges": ["h e"],
        "token_type": [1] * 257 + [3], "bos_token_id": 257, "eos_token_id": 257,
    }  # fmt: skip
    entries.update(changes)
    return entries


def test_byte_level_tokenizer_of_a_gguf() -> None:
    tokens = byte_level()["tokens"]
    assert isinstance(tokens, list)
    tokenizer = build_tokenizer(byte_level(), "test")
    ids = tokenizer.encode("he 12<|end|>").ids
    assert [tokens[i] for i in ids] == ["he", "\u0120", "1", "2", "<|end|>"]
    assert tokenizer.decode(ids) == "he 12"
    both = build_tokenizer(byte_level(add_bos_token=True, add_eos_token=True), "test")
    assert both.encode("he").ids == [257, 256, 257]
    # where the file does not say, Llama 3 begins with BOS
    assert build_tokenizer(byte_level(pre="llama-bpe"), "test").encode("he").ids == [257, 256]


@pytest.mark.parametrize("style", ["smollm", "llama-bpe", "qwen2", "gpt-2"])
def test_text_survives_encoding_and_decoding(style: str) -> None:
    tokenizer = build_tokenizer(byte_level(pre=style, add_bos_token=False), "test")
    text = "He's 1234 caf\u00e9\n\n  x\t\u65e5 don't"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer 'bert' is not supported; give --prompt-ids"),
        ({"pre": "unheard-of"}, "pre-tokenizer 'unheard-of' is not supported; give --prompt-ids"),
        ({"tokens": [1, 2]}, "tokens is not a list of texts"),
        ({"merges": ["h"]}, "merges is not a list of pairs"),
        ({"merges": ["h zz"]}, "not a tokenizer that can be used"),
        ({"token_type": [1]}, "token_type does not have 258 entries"),
        ({"model": "llama"}, "scores is missing"),
        ({"model": "llama", "scores": [0.0]}, "scores does not have 258 entries"),
    ],
)
def test_damaged_gguf_tokenizers(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_tokenizer(byte_level(**changes), "test")


def test_smollm2_tokens() -> None:
    """The prompt's ids as transformers gives them for SmolLM2 (no BOS, digits one by one)."""
    tokenizer = load_model(smollm2()).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("The capital of France") == [504, 3575, 282, 4649]
    ids = tokenizer.encode("In 2026, caf\u00e9s\t<|im_end|>")
    assert tokenizer.decode(ids) == "In 2026, caf\u00e9s\t"
    assert ids[-1] == 2  # <|im_end|>
