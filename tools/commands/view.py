"""`decodelab view`: recorded steps as one HTML page that needs no network."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console


@click.command("view", short_help="Traces as one HTML page: timeline, listing, roofline, comparison.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE.html", required=True, type=click.Path(dir_okay=False, path_type=Path),
              help="Page to write; it opens from disk in any browser.")  # fmt: skip
@click.option("--explain", "explanation", metavar="FILE.json", default=None,
              type=click.Path(dir_okay=False, exists=True, path_type=Path),
              help="What `decodelab explain --json` wrote for this step: its waterfall goes into the summary.")
@click.option("--title", default=None, help="Title of the page [default: names of the folders].")
def command(folders: tuple[Path, ...], output: Path, explanation: Path | None, title: str | None) -> None:
    """Show what `decodelab trace` wrote to DIR: both machines on one time axis. With several DIRs, runs of the same
    chip can be compared."""
    from tools.viewer.page import page
    from tools.viewer.recording import add_explanation, recordings_of

    console.check_writable(output, *([explanation] if explanation else []))
    with console.Progress("reading traces"):
        recordings = recordings_of(list(folders))
    if explanation is not None:
        add_explanation(recordings, explanation)
    with console.Progress("packing events"):
        text = page(recordings, title or ", ".join(dict.fromkeys(r.label for r in recordings)))
    console.write_file(output, text)
    events = sum(len(r.trace) for r in recordings)
    console.data(f"{output}: {events:,} events of {len(recordings)} machine"
                 f"{'s' if len(recordings) > 1 else ''}, {len(text) / 1e6:.1f} MB; open it in a browser")
