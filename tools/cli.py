"""The command line: `decodelab COMMAND`. One module a command, loaded only when it is needed.

Exit codes: 0 done; 1 a comparison, tolerance or expectation failed; 2 bad input or an impossible
request, told in one sentence on standard error.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys

import click

from tools import console

# In the order of --help: what a newcomer wants first.
COMMANDS = ("compare", "explain", "generate", "predict", "validate", "sensitivity", "microbench", "dram", "schedule",
            "trace", "query", "heat", "view", "export", "diff", "plot", "compile", "run", "asm", "disasm", "chips",
            "models")

OWN_PACKAGES = ("isa", "emulator", "programs", "tools")


class LazyGroup(click.Group):
    """A group whose commands live in tools.commands.<name> as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"tools.commands.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise click.UsageError(f"no command {args[0]}; {hint}commands: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Start with: decodelab compare",
)
@click.version_option(package_name="decodelab", message="decodelab %(version)s")
def cli() -> None:
    """One decode step of a real transformer, cycle by cycle, on a static SRAM chip and on a cache/HBM GPU."""


def _is_ours(error: Exception) -> bool:
    """Whether an error carries a message for the user: a ValueError, an OSError, or one of our own classes."""
    if isinstance(error, AssertionError):
        return False
    own = type(error).__module__.split(".")[0] in OWN_PACKAGES
    return own or isinstance(error, (ValueError, OSError, MemoryError))


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    return str(error) or type(error).__name__


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    console.prepare_streams()
    for argument in sys.argv[1:] if arguments is None else arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):  # bytes that Python could not decode
            console.message(f"error: {ascii(argument)} is not text in UTF-8")
            return 2
    try:
        code = cli.main(args=arguments, prog_name="decodelab", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        console.message("interrupted; nothing was written")
        return 130
    except click.ClickException as error:
        console.message(f"error: {error.format_message()}")
        return 2
    except BrokenPipeError:  # the reader of standard output went away: nothing left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("DECODELAB_TRACEBACK") or not _is_ours(error):
            raise
        console.message(f"error: {_sentence(error)}")
        return 2
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
