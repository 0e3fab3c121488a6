import click


@click.command("asm")
def command() -> None:
    """asm"""
