import click


@click.command("compile")
def command() -> None:
    """compile"""
