"""`decodelab dram`: a DRAM by itself, on a pattern of requests or an address trace."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import Count, Finite, engine_option, json_option, set_option

MOST = 1 << 27  # requests: a gigabyte of addresses


@click.command("dram", short_help="A DRAM by itself: patterns and address traces.")
@click.option("--config", "name", default=None, metavar="NAME",
              help="A DRAM that ships with decodelab (without --config they are listed), a file, or a GPU chip.")
@click.option("--pattern", default=None,
              help="sequential, random, single_bank_group, single_bank or mix:R:W (R reads, W writes) "
                   "[default: sequential].")
@click.option("--requests", type=Count(), default=None, help="Requests of the pattern [default: 1000000].")
@click.option("--size", type=int, default=64, show_default=True, help="Bytes a request: whole bursts, at most 128.")
@click.option("--trace", "trace_file", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Run an address trace instead: Ramulator's or DRAMsim3's text formats.")
@click.option("--load", type=Finite(0.01, 1000), default=None, metavar="PERCENT",
              help="Let requests arrive evenly at this share of the peak, instead of as fast as they fit.")
@click.option("--refresh", type=click.Choice(["per_bank", "all_bank", "none"]), default=None,
              help="Instead of what the DRAM's file says.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, help="Of random addresses.")
@click.option("--write-trace", "output", type=click.Path(path_type=Path), default=None,
              help="Write the requests as a trace as well.")
@click.option("--trace-format", type=click.Choice(["ldst", "rw", "dramsim3"]), default=None,
              help="Of the written one: Ramulator 2 (LD/ST), Ramulator (R/W) or DRAMsim3 (with cycles) "
                   "[default: dramsim3].")
@set_option
@engine_option
@json_option
def command(
    name: str | None, pattern: str | None, requests: int | None, size: int, trace_file: Path | None,
    load: float | None, refresh: str | None, seed: int, output: Path | None, trace_format: str | None,
    settings: tuple[str, ...], engine: str, as_json: bool,
) -> None:  # fmt: skip
    """Run reads and writes on a DRAM by itself: efficiency, latency, commands, and what bounds it.

    Requests of a pattern arrive as fast as the queues take them, unless --load says otherwise. Addresses of a
    trace are rounded down to the size.
    """
    from emulator.dram.config import DramConfig
    from tools import dram as runs
    from tools.dram_trace import read_trace, trace_text

    if name is None:
        if trace_file or pattern or output or requests or load or refresh or trace_format or settings:
            raise ValueError("--config NAME is needed: decodelab dram lists the names")
        _list(as_json)
        return
    if trace_file is not None and (pattern is not None or requests is not None):
        raise ValueError("--trace has its own requests: leave out --pattern and --requests")
    if trace_format is not None and output is None:
        raise ValueError(f"--trace-format {trace_format} is the format of --write-trace, which is not given; "
                         "--trace tells the format of a file by its lines")
    if requests is not None and requests > MOST:
        raise ValueError(f"--requests {requests}: at most {MOST}")
    dram = runs.load_config(name, settings)
    config = DramConfig.from_chip(dram)
    if refresh is not None:
        config = config.but(refresh=refresh)
    if size not in range(config.burst_bytes, 129, config.burst_bytes) or 128 % size:
        sizes = [s for s in (32, 64, 128) if s % config.burst_bytes == 0]
        raise ValueError(f"--size {size}: {dram.name} takes requests of {' or '.join(map(str, sizes))} bytes")
    console.check_writable(output, *([trace_file] if trace_file else []))
    if trace_file is not None:
        trace, what = read_trace(trace_file), f"trace {trace_file.name}"
        trace.addresses -= trace.addresses % size
    else:
        what = pattern or "sequential"
        capacity = min(int(dram["dram.capacity_bytes"]), config.row_capacity)
        trace = runs.pattern(what, config, capacity, requests or 1_000_000, size, seed)
    if load is not None:
        trace, what = runs.offered(trace, config, size, load), f"{what}, arriving at {load:g} % of the peak"
    report = runs.run(dram, config, what, trace, size, engine)
    if output is not None:
        console.write_file(output, trace_text(trace, trace_format or "dramsim3"))
    console.data(console.to_json(report.json()) if as_json else report.text())


def _list(as_json: bool) -> None:
    from emulator.chip import dram_names, load_dram
    from emulator.dram.config import DramConfig
    from tools.report import size, table

    drams = [load_dram(name) for name in dram_names()]
    peaks = [DramConfig.from_chip(d).peak_bytes_per_cycle * int(d["dram.clock_hz"]) for d in drams]
    if as_json:
        entries = [{"config": d.name, "title": d.title, "density_gbit_per_channel": d["dram.density_gbit"],
                    "capacity_bytes": d["dram.capacity_bytes"], "peak_bytes_per_second": peak, "hash": d.hash}
                   for d, peak in zip(drams, peaks)]
        console.data(console.to_json({"schema": "decodelab.drams/1", "configs": entries}))
        return
    rows = [[d.name, f"{d['dram.density_gbit']} Gb", f"{size(peak)}/s", d.title] for d, peak in zip(drams, peaks)]
    console.data(table(rows, ["config", "channel", "peak", "what it is"]))
    console.data("\nRun one: decodelab dram --config NAME --pattern random")
