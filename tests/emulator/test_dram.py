"""DRAM timing, one rule a test, on both engines. Numbers are h100_sxm's unless a test changes them:

    RCD 19   CL 19   CWL 6   burst 2   RP 19   RAS 45   RC 63   CCD 2 / 4   RRD 2 / 4   FAW 39
    WTR 8 / 11 from the end of data   RTW 17   WR 21 from the end of data   RTP 8   8 bank groups

Bank b is in group b modulo 8. Refresh is off except in its own tests.
"""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import ChipError, load_chip
from emulator.dram.alone import simulate
from emulator.dram.config import LINE_BYTES, DramConfig

H100 = DramConfig.from_chip(load_chip("h100_sxm"))
ONE = H100.but(channels=1, pseudo_channels=1, scramble_bits=0, refi=0)


def byte(config: DramConfig, bank: int, row: int, burst: int = 0, pc: int = 0) -> int:
    """Byte address of a 32-byte burst of a row."""
    return config.line_at(pc, bank, row, burst // 4) * LINE_BYTES + burst % 4 * 32


def commands(config: DramConfig, requests: list[tuple], size: int = 32) -> list[tuple[int, str, int]]:
    """(cycle, command, bank) of (arrival, "R" or "W", bank, row[, burst[, pc]]); both engines agree."""
    addresses = [byte(config, *place) for _, _, *place in requests]
    arrivals = [request[0] for request in requests]
    writes = [request[1] == "W" for request in requests]
    fast = simulate(config, addresses, writes, arrivals, size, log=True)
    naive = simulate(config, addresses, writes, arrivals, size, log=True, engine="naive")
    assert fast.commands == naive.commands
    return [(cycle, command, bank) for cycle, _, command, bank, _ in fast.commands]


def cycles_of(log: list[tuple[int, str, int]], command: str) -> list[int]:
    return [cycle for cycle, name, _ in log if name == command]


def done(config: DramConfig, requests: list[tuple], size: int = 32) -> list[int]:
    """Cycle in which each request's data has passed the bus."""
    addresses = [byte(config, *place) for _, _, *place in requests]
    result = simulate(config, addresses, [r[1] == "W" for r in requests], [r[0] for r in requests], size)
    return result.done.tolist()


def test_first_read_activates_waits_rcd_and_cl():
    # ACT 0, RD 0 + 19, data until 19 + CL 19 + burst 2 = 40.
    assert commands(ONE, [(0, "R", 0, 0)]) == [(0, "ACT", 0), (19, "RD", 0)]
    assert done(ONE, [(0, "R", 0, 0)]) == [40]


def test_row_hit_takes_cl_and_burst():
    # The row is open: RD in the cycle of arrival, 100 + 19 + 2.
    assert done(ONE, [(0, "R", 0, 0), (100, "R", 0, 0, 1)])[1] == 121


def test_row_miss_precharges_and_activates():
    # PRE 100 (RAS is long over), ACT 100 + RP 19, RD 119 + RCD 19, data until 138 + 19 + 2.
    requests = [(0, "R", 0, 0), (100, "R", 0, 1)]
    assert commands(ONE, requests)[2:] == [(100, "PRE", 0), (119, "ACT", 0), (138, "RD", 0)]
    assert done(ONE, requests)[1] == 159


def test_precharge_waits_for_tras():
    # RD 19 would allow PRE at 19 + RTP 8 = 27; the ACT of cycle 0 only at 45.
    assert cycles_of(commands(ONE, [(0, "R", 0, 0), (20, "R", 0, 1)]), "PRE") == [45]


def test_precharge_waits_for_trtp():
    # RD 200, PRE 200 + 8.
    assert cycles_of(commands(ONE, [(0, "R", 0, 0), (200, "R", 0, 0, 1), (201, "R", 0, 1)]), "PRE") == [208]


def test_precharge_waits_for_twr_after_write_data():
    # WR 200, its data ends at 200 + 6 + 2 = 208, PRE 208 + 21.
    assert cycles_of(commands(ONE, [(0, "W", 0, 0), (200, "W", 0, 0, 1), (201, "W", 0, 1)]), "PRE") == [229]


def test_activates_of_a_bank_are_spaced_by_trc():
    # With RAS 20: PRE 27 (RTP), ACT could follow at 46; RC says 63.
    assert cycles_of(commands(ONE.but(ras=20), [(0, "R", 0, 0), (0, "R", 0, 1)]), "ACT") == [0, 63]


def test_write_waits_for_its_own_rcd():
    assert cycles_of(commands(ONE.but(rcd_wr=11), [(0, "W", 0, 0)]), "WR") == [11]


def test_same_bank_group_reads_are_spaced_by_tccd_l():
    # Two bursts of one row, then banks 0 and 8 of group 0 with their rows open.
    assert cycles_of(commands(ONE, [(0, "R", 0, 0)], size=64), "RD") == [19, 23]
    opened = [(0, "R", 0, 0), (0, "R", 8, 0), (200, "R", 0, 0, 1), (200, "R", 8, 0, 1)]
    assert cycles_of(commands(ONE, opened), "RD")[2:] == [200, 204]


def test_reads_of_other_bank_groups_are_spaced_by_tccd_s():
    opened = [(0, "R", 0, 0), (0, "R", 1, 0), (200, "R", 0, 0, 1), (200, "R", 1, 0, 1)]
    assert cycles_of(commands(ONE, opened), "RD")[2:] == [200, 202]


def test_activates_of_other_bank_groups_are_spaced_by_trrd_s():
    assert cycles_of(commands(ONE.but(rrd_s=3), [(0, "R", 0, 0), (0, "R", 1, 0)]), "ACT") == [0, 3]


def test_activates_of_a_bank_group_are_spaced_by_trrd_l():
    assert cycles_of(commands(ONE, [(0, "R", 0, 0), (0, "R", 8, 0)]), "ACT") == [0, 4]


def test_fifth_activate_waits_for_tfaw():
    # Four at RRD_S 2 apart, the fifth FAW 39 after the first, the sixth 39 after the second.
    log = commands(ONE, [(0, "R", bank, 0) for bank in range(6)])
    assert cycles_of(log, "ACT") == [0, 2, 4, 6, 39, 41]


def test_read_after_write_waits_for_twtr_after_the_data():
    # WR 200, data until 208. RD in another group at 208 + WTR_S 8, in the same one at 208 + WTR_L 11.
    opened = [(0, "R", 0, 0), (0, "R", 1, 0), (0, "R", 8, 0), (200, "W", 0, 0)]
    assert cycles_of(commands(ONE, opened + [(201, "R", 1, 0, 1)]), "RD")[3:] == [216]
    assert cycles_of(commands(ONE, opened + [(201, "R", 8, 0, 1)]), "RD")[3:] == [219]


def test_write_after_read_waits_for_trtw():
    # RTW 17 = CL 19 + burst 2 + 2 - CWL 6: two idle cycles on the data bus.
    opened = [(0, "R", 0, 0), (0, "R", 1, 0), (200, "R", 0, 0, 1), (201, "W", 1, 0)]
    assert cycles_of(commands(ONE, opened), "WR") == [217]


def test_refresh_closes_the_row_and_holds_the_bank():
    # REF of bank 0 falls at 160: implied PRE 160, + RP 19 + RFC 262 = 441 is the next ACT, RD 19 later.
    config = ONE.but(refi=160)
    log = commands(config, [(0, "R", 0, 0), (161, "R", 0, 0, 1)])
    assert log[2:] == [(160, "REF", 0), (320, "REF", 1), (441, "ACT", 0), (460, "RD", 0)]
    # Another bank does not notice.
    assert done(config, [(0, "R", 0, 0), (0, "R", 5, 0), (161, "R", 5, 0, 1)])[2] == 161 + 21


def test_refresh_goes_round_the_banks():
    log = commands(ONE.but(refi=160, rfc=10), [(0, "R", 0, 0), (160 * 34, "R", 1, 0)])
    assert [(cycle, bank) for cycle, name, bank in log if name == "REF"] == [
        (160 * (i + 1), i % 32) for i in range(34)]


def test_pseudo_channels_take_turns_in_refresh():
    # The second pseudo-channel's refreshes fall half an interval after the first's.
    config = ONE.but(pseudo_channels=2, refi=160)
    result = simulate(config, [byte(config, 9, 0)], arrivals=[500], log=True)
    refreshes = [(cycle, pc) for cycle, pc, name, _, _ in result.commands if name == "REF"]
    assert refreshes[:4] == [(160, 0), (240, 1), (320, 0), (400, 1)]


def test_refresh_of_all_banks_waits_for_the_last_bank_and_holds_them_all():
    # REF falls at 300. Bank 1 was opened at 280 for a read at 299, whose tRTP ends at 307, but tRAS only at 325:
    # implied PRE 325, + RP 19 + RFC 120 = 464 is the next ACT, of whatever bank; RRD_S 2 to the second.
    config = ONE.but(refresh="all_bank", refi_ab=300, rfc_ab=120)
    late = [(0, "R", 0, 0), (280, "R", 1, 0)]
    log = commands(config, [*late, (301, "R", 2, 0), (301, "R", 0, 0, 1)])
    first = 280 + 45 + 19 + 120
    assert log[4:7] == [(300, "REF", 0), (first, "ACT", 2), (first + 2, "ACT", 0)]


def test_refresh_of_all_banks_comes_each_interval():
    config = ONE.but(refresh="all_bank", refi_ab=500, rfc_ab=100)
    log = commands(config, [(0, "R", 0, 0), (2400, "R", 1, 0)])
    assert cycles_of(log, "REF") == [500, 1000, 1500, 2000]


def test_refresh_of_all_banks_costs_a_stream_its_share_of_time():
    # 400 of 5000 cycles, and closing and opening the rows around it: at most RAS 45 + RP 19 + RCD 19.
    config = ONE.but(refresh="all_bank", refi_ab=5000, rfc_ab=400)
    reached = simulate(config, np.arange(30_000) * LINE_BYTES).efficiency
    assert 1 - (400 + 45 + 19 + 19) / 5000 <= reached <= 1 - 400 / 5000


def test_no_refresh_is_no_refresh():
    log = commands(ONE.but(refresh="none", refi=160, refi_ab=500), [(0, "R", 0, 0), (5000, "R", 0, 0, 1)])
    assert cycles_of(log, "REF") == []


def test_a_full_queue_lets_the_next_arrival_wait():
    # Two places: the third read of the row enters the cycle after the first one's RD at 19, the fourth the cycle
    # after the RD at 23. Reads stay tCCD_L 4 apart: 19, 23, 27, 31, and the data is there CL 19 + burst 2 later.
    config = ONE.but(read_queue=2)
    places = [(0, 0, 0), (0, 0, 4), (0, 0, 8), (0, 0, 12)]
    addresses = [byte(config, *place) for place in places]
    for engine in ("fast", "naive"):
        result = simulate(config, addresses, size=32, engine=engine)
        assert result.entered.tolist() == [0, 0, 20, 24]
        assert result.done.tolist() == [40, 44, 48, 52]


def test_a_burst_of_64_bytes_moves_two_sectors():
    # DRAMsim3's 128-bit channels: a 128-byte line is two bursts, its second half one.
    config = ONE.but(burst_bytes=64)
    for size, reads in ((128, 2), (64, 1)):
        result = simulate(config, [128 - size % 128], size=size, log=True)
        assert [c[2] for c in result.commands] == ["ACT"] + ["RD"] * reads
        assert result.bytes == size
    with pytest.raises(ValueError, match="size must be 64 or 128"):
        simulate(config, [0], size=32)


def test_activate_takes_two_cycles_of_the_shared_row_bus():
    # Both pseudo-channels want an ACT at 0, and nothing else holds the second back.
    config = ONE.but(pseudo_channels=2)
    assert cycles_of(commands(config, [(0, "R", 0, 0, 0, 0), (0, "R", 0, 0, 0, 1)]), "ACT") == [0, 2]


def test_precharge_takes_one_cycle_of_the_shared_row_bus():
    config = ONE.but(pseudo_channels=2)
    requests = [(0, "R", 0, 0, 0, 0), (0, "R", 0, 0, 0, 1), (200, "R", 0, 1, 0, 0), (200, "R", 0, 1, 0, 1)]
    assert cycles_of(commands(config, requests), "PRE") == [200, 201]


def test_pseudo_channels_share_the_column_bus():
    config = ONE.but(pseudo_channels=2)
    requests = [(0, "R", 0, 0, 0, 0), (0, "R", 0, 0, 0, 1), (200, "R", 0, 0, 1, 0), (200, "R", 0, 0, 1, 1)]
    assert cycles_of(commands(config, requests), "RD")[2:] == [200, 201]


def test_a_ready_row_hit_goes_before_an_older_miss():
    # Row 0 of bank 0 is open. The miss came first, but the hits that wait with it go first: PRE only
    # after the last of them, at 206 + RTP 8.
    opened = [(0, "R", 0, 0), (200, "R", 0, 1), (200, "R", 0, 0, 4), (200, "R", 0, 0, 8)]
    log = commands(ONE, opened)[2:]
    assert log[:3] == [(200, "RD", 0), (204, "RD", 0), (212, "PRE", 0)]


def test_an_entry_over_the_age_cap_owns_its_bank():
    # The miss of 200 is over a cap of 10 from 211 on: of the hits only 200, 204 and 208 are served
    # first, PRE follows at 208 + RTP 8 = 216, and the other hits come after the row was opened again.
    requests = [(0, "R", 0, 0), (200, "R", 0, 1)] + [(200, "R", 0, 0, 4 * i) for i in range(1, 7)]
    log = commands(ONE.but(age_cap=10), requests)[2:]
    assert log[:4] == [(200, "RD", 0), (204, "RD", 0), (208, "RD", 0), (216, "PRE", 0)]
    # Without the cap all six hits go first: the last at 220, PRE 228.
    assert cycles_of(commands(ONE, requests), "PRE")[0] == 228


def test_writes_drain_from_the_high_mark_to_the_low_mark():
    # Reads keep coming; six writes are the high mark, and two are left when reads are served again.
    config = ONE.but(write_queue=8, drain_high=6, drain_low=2)
    reads = [(200, "R", 1 + i % 2, 0, i) for i in range(1, 30)]
    writes = [(200, "W", 4 + i, 0) for i in range(6)]
    opened = [(0, "R", bank, 0) for bank in (1, 2, 4, 5, 6, 7, 8, 9)]
    names = [name for cycle, name, _ in commands(config, opened + writes + reads) if name in ("RD", "WR")]
    after = "".join(name[0] for name in names[8:])
    assert after.startswith("WWWWR") and after.endswith("RWW")


def test_a_single_bank_group_reaches_half_of_peak():
    # CCD_L 4 against burst 2. Banks 0, 8, 16, 24 are group 0; 512 bytes of a row at a time.
    lines = [ONE.line_at(0, 8 * (i // 4 % 4), i // 16, i % 4) for i in range(20_000)]
    assert simulate(ONE, np.array(lines) * LINE_BYTES).efficiency == pytest.approx(0.5, abs=0.005)


def test_one_bank_gives_one_access_a_row_cycle():
    # Every access another row: ACT to ACT = max(RC 63, RAS 45 + RP 19 = 64) = 64. The last data: + 40.
    n = 500
    result = simulate(ONE, [byte(ONE, 3, row) for row in range(n)], size=32)
    assert result.cycles == 64 * (n - 1) + 40


def test_a_sequential_stream_reaches_the_peak():
    # Only the start (40 cycles) and the refresh of banks that are in use are lost.
    result = simulate(ONE.but(refi=160), np.arange(30_000) * LINE_BYTES)
    assert 0.985 < result.efficiency <= 1


def test_random_reads_are_limited_by_tfaw():
    # An ACT for each 32 bytes: 4 in 39 cycles = 8 of 39 cycles on the data bus; the rest is bank conflicts.
    rng = np.random.default_rng(7)
    result = simulate(ONE, rng.integers(0, 2**27, 20_000) * LINE_BYTES, size=32)
    assert 0.97 * 8 / 39 < result.efficiency <= 1.001 * 8 / 39


def test_the_scrambled_map_costs_a_stream_nothing():
    # All pseudo-channels have as much to do, and a row's two chunks follow each other: refresh alone remains, which
    # hides behind the queue. 160 pseudo-channels, 400,000 lines.
    result = simulate(H100, np.arange(400_000) * LINE_BYTES)
    assert 0.98 < result.efficiency < 1


def test_no_distance_between_addresses_meets_one_pseudo_channel():
    # 64 lines at a distance of 2 ** k bytes: as if dealt out at random, 64 of 160 pseudo-channels would get 52.
    for k in range(9, 28):
        used = {H100.locate(i << k - 7)[0] for i in range(64)}
        assert len(used) >= 40


def test_counters_are_the_commands():
    rng = np.random.default_rng(3)
    addresses = rng.integers(0, 2**16, 3000) * 32
    result = simulate(H100.but(channels=2), addresses, rng.random(3000) < 0.3, size=32, log=True)
    names = [command[2] for command in result.commands]
    expected = {"dram_reads": "RD", "dram_writes": "WR", "dram_activates": "ACT", "dram_precharges": "PRE",
                "dram_refreshes": "REF"}
    assert {key: result.counters[key] for key in expected} == {k: names.count(v) for k, v in expected.items()}
    assert result.counters["dram_reads"] + result.counters["dram_writes"] == 3000
    # An ACT serves a first burst, which is no row hit; refresh can undo one before that.
    assert result.counters["dram_row_hits"] >= 3000 - result.counters["dram_activates"]


@pytest.mark.parametrize("arguments, message", [
    (dict(addresses=[16]), "multiples of 32"),
    (dict(addresses=[96], size=64), "must not cross"),
    (dict(addresses=[-128]), "multiples of 32"),
    (dict(addresses=[0], size=48), "size must be"),
    (dict(addresses=[0, 128], arrivals=[5, 4]), "must not fall"),
    (dict(addresses=[0], writes=[True, False]), "1 addresses, but 2 writes"),
])
def test_a_bad_trace_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(ONE, **arguments)


@pytest.mark.parametrize("changes, message", [
    (dict(channels=0), "channels must be at least 1"),
    (dict(bank_groups=16, banks_per_group=4), "at most 62 banks"),
    (dict(row_bytes=700), "row_bytes must be a multiple"),
    (dict(drain_low=48), "drain_low < drain_high"),
    (dict(rfc=160 * 32), "always be in refresh"),
    (dict(refresh="all_bank", refi_ab=300, rfc_ab=200), "always be in refresh"),
    (dict(refresh="sometimes"), "refresh must be per_bank, all_bank or none"),
    (dict(order="upwards"), "map.order must be row_interleaved"),
    (dict(burst_bytes=48), "burst_bytes must be 32, 64 or 128"),
])
def test_an_impossible_dram_is_refused(changes, message):
    with pytest.raises(ChipError, match=message):
        H100.but(**changes)


def test_an_empty_trace_takes_no_time():
    for engine in ("fast", "naive"):
        result = simulate(ONE, [], engine=engine)
        assert result.cycles == 0 and result.counters["dram_activates"] == 0
