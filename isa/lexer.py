"""Lines of assembly text: tokens, a cursor over them, and errors that point at the place.

One compiled regular expression finds the tokens; everything else asks a Line for what it expects next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TOKENS = re.compile(r"""
    (?P<space>\s+|;.*|//.*)                                 # and comments
  | (?P<string>"[^"]*")
  | (?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
  | (?P<directive>\.[A-Za-z_]\w*)
  | (?P<name>[A-Za-z_]\w*(?:\.\w+)*)                        # a dotted name is one token: LDG.32, S0.E, MXM2.LW
  | (?P<mark>[@:,()\[\]+\-*/%!={}])
""", re.VERBOSE)


class AssemblyError(ValueError):
    """Text that cannot be assembled. str() is the message for people, with the line and a caret.

    file, line and column (both from 1) and message are also attributes.
    """

    def __init__(self, file: str, line: int, column: int, message: str, text: str = "", width: int = 1) -> None:
        shown = text.replace("\t", " ")
        caret = f"\n{line:5d} | {shown}\n      | {' ' * (column - 1)}{'^' * max(width, 1)}" if shown else ""
        super().__init__(f"{file}:{line}:{column}: {message}{caret}")
        self.file, self.line, self.column, self.message = file, line, column, message


@dataclass(frozen=True)
class Token:
    kind: str  # name of the group in TOKENS, or "end"
    text: str
    column: int  # from 0


def nearest(name: str, known: Iterable[str]) -> str:
    """"; did you mean X?" for the closest known name, or an empty string."""
    by_case = {k.lower(): k for k in known}
    found = difflib.get_close_matches(name.lower(), list(by_case), n=1, cutoff=0.5)
    return f"; did you mean {by_case[found[0]]}?" if found else ""


class Line:
    """Tokens of one line, read from left to right."""

    def __init__(self, file: str, number: int, text: str) -> None:
        self.file, self.number, self.text = file, number, text
        self.tokens: list[Token] = []
        self.at = 0
        position = 0
        while position < len(text):
            match = TOKENS.match(text, position)
            if match is None:
                stray = f"{text[position]!r} has no meaning here"
                what = "this string does not end" if text[position] == '"' else stray
                raise self.error(what, Token("bad", text[position], position))
            if match.lastgroup != "space":
                self.tokens.append(Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        self.end = Token("end", "", len(text.rstrip()))

    # -- looking and taking ------------------------------------------------------------------
    def peek(self, ahead: int = 0) -> Token:
        """The next token (or one further on), not taken; kind "end" after the last."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else self.end

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, text: str) -> bool:
        """Take the next token if it is this text."""
        if self.peek().text == text and self.peek().kind != "string":
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> Token:
        token = self.next()
        if token.text != text or token.kind == "string":
            raise self.error(f"expected {text!r} instead of {self.describe(token)}", token)
        return token

    def name(self, what: str) -> Token:
        """Take a name; `what` says in the error which one is missing."""
        token = self.next()
        if token.kind != "name":
            raise self.error(f"expected {what} instead of {self.describe(token)}", token)
        return token

    def finish(self) -> None:
        """Nothing may follow."""
        if self.peek().kind != "end":
            raise self.error(f"{self.describe(self.peek())} is not expected here", self.peek())

    @property
    def done(self) -> bool:
        return self.peek().kind == "end"

    # -- numbers -----------------------------------------------------------------------------
    def integer(self, constants: Mapping[str, int]) -> int:
        """A whole-number expression of numbers and named constants, with + - * and parentheses."""
        return self.product(constants) + self.offset(constants)

    def offset(self, constants: Mapping[str, int]) -> int:
        """What `+ term - term ...` adds to what stands before it; 0 when nothing follows."""
        value = 0
        while self.peek().text in ("+", "-") and self.peek().kind == "mark":
            value = value + self.product(constants) if self.next().text == "+" else value - self.product(constants)
        return value

    def product(self, constants: Mapping[str, int]) -> int:
        """One term of such an expression."""
        value = self._factor(constants)
        while self.accept("*"):
            value *= self._factor(constants)
        return value

    def _factor(self, constants: Mapping[str, int]) -> int:
        token = self.next()
        if token.text == "-":
            return -self._factor(constants)
        if token.text == "(":
            value = self.integer(constants)
            self.expect(")")
            return value
        if token.kind == "number":
            try:
                return int(token.text, 0)
            except ValueError:
                raise self.error(f"{token.text} is not a whole number", token) from None
        if token.kind == "name":
            if token.text in constants:
                return constants[token.text]
            raise self.error(f"unknown name {token.text}{nearest(token.text, constants)}", token)
        raise self.error(f"expected a whole number instead of {self.describe(token)}", token)

    def real(self) -> float:
        """A number with an optional sign; inf and nan are numbers too."""
        negative = self.accept("-")
        token = self.next()
        if token.kind == "number":
            value = float(int(token.text, 0)) if token.text[:2] in ("0x", "0X") else float(token.text)
        elif token.text in ("inf", "nan"):
            value = float(token.text)
        else:
            raise self.error(f"expected a number instead of {self.describe(token)}", token)
        return -value if negative else value

    def group_text(self, opening: str, closing: str) -> tuple[str, Token]:
        """(text between two brackets, the opening token); the cursor ends after the closing one."""
        first = self.expect(opening)
        depth = 1
        while depth:
            token = self.next()
            if token.kind == "end":
                raise self.error(f"{opening!r} is not closed", first)
            depth += (token.text == opening) - (token.text == closing)
        return self.text[first.column + 1:token.column], first

    # -- errors ------------------------------------------------------------------------------
    @staticmethod
    def describe(token: Token) -> str:
        return "the end of the line" if token.kind == "end" else repr(token.text)

    def error(self, message: str, token: Token | None = None) -> AssemblyError:
        """An error at a token (default: the one just taken)."""
        if token is None:
            token = self.tokens[min(self.at, len(self.tokens)) - 1] if self.at and self.tokens else self.peek()
        return AssemblyError(self.file, self.number, token.column + 1, message, self.text, len(token.text))

    def unknown(self, what: str, token: Token, known: Iterable[str]) -> AssemblyError:
        """"unknown <what> <name>", with the nearest known name."""
        return self.error(f"unknown {what} {token.text}{nearest(token.text, known)}", token)
