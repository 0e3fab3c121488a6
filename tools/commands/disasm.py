import click


@click.command("disasm")
def command() -> None:
    """disasm"""
