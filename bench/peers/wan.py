"""What a network would add to a run that was measured without it."""

from __future__ import annotations

from typing import Any

from gpumpc.measure.relay import Shape

# CrypTen counts four rounds where a product is made: the request to the third party, the size and
# the triple, which come back together, and the opening. Three of them wait for the network.
_WAITS_A_ROUND = 3 / 4


def computed_row(measured: dict[str, Any], link: Shape) -> dict[str, Any]:
    """CrypTen's row on a link, from its compute, rounds and bytes: its transport cannot be led
    through a relay.

    Each round waits for one message one way; what a party sends passes at the link's rate, and the
    dealer's bytes beside it. This is less than a real network would take: nothing is lost, and no
    connection starts slowly.
    """
    rate = link.bits_per_second / 8
    waits = measured["rounds"] * _WAITS_A_ROUND * link.round_trip_s / 2
    passing = (measured["online_bytes"] + (measured["offline_bytes"] or 0)) / rate
    return {
        **measured,
        "seconds_total": measured["seconds_total"] + waits + passing,
        "seconds_compute": measured["seconds_total"],
        "seconds_total_runs": None,
        "items_per_second": None,
        "computed": True,
        "computed_note": "compute on loopback + rounds x 3/4 x half a round trip + bytes / rate",
    }
