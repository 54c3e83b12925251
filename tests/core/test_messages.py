"""What the layers of a feed tell each other."""

import pytest

from feedhandler.core.messages import RUN_CHANNELS, Run


@pytest.mark.parametrize("channels", [1, RUN_CHANNELS, RUN_CHANNELS + 1, 100])
def test_a_run_of_many_channels_goes_on_in_pieces_of_few(channels: int) -> None:
    """So its cost grows with its events and not with events times channels; the events stay what they were."""
    names = [f"M{number % channels}/publicTrades" for number in range(230)]
    run = Run(names, [b"%d" % number for number in range(230)], "a", 7, 1000)
    pieces = run.narrow()
    assert [one for piece in pieces for one in piece.releases()] == run.releases()
    assert all(len(set(piece.channels)) <= RUN_CHANNELS for piece in pieces)
    assert (len(pieces) == 1) == (channels <= RUN_CHANNELS)
