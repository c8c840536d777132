"""WebSocket frame boundaries, however the stream is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.websocket_frames import FrameTracker, close_frame


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """A frame (RFC 6455 §5.2), built without the code under test; masking does not change its length."""
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, mask | size))
    elif size < 65_536:
        head = bytes((0x80 | opcode, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, mask | 127)) + size.to_bytes(8, "big")
    return head + (b"\x88key" if masked else b"") + payload


frames = st.builds(
    frame,
    st.sampled_from([0x0, 0x1, 0x2, 0x9, 0xA]),
    st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536]).map(lambda size: b"\x88" * size),
    masked=st.booleans(),
)


@given(st.lists(frames, min_size=1, max_size=5), st.lists(st.integers(1, 70_000), max_size=20))
def test_a_boundary_is_found_wherever_the_stream_is_cut(sent: list[bytes], cuts: list[int]) -> None:
    """A boundary is found exactly where a frame ends."""
    ends = {sum(map(len, sent[:count])) for count in range(len(sent) + 1)}
    stream, followed, position = b"".join(sent), FrameTracker(), 0
    for cut in [*cuts, len(stream)]:
        piece = stream[position : position + cut]
        assert followed.follow(piece) == len(piece)
        position += len(piece)
        assert followed.at_boundary is (position in ends)
    assert not followed.closing


@given(frames, frames, st.integers(0, 70_020))
def test_the_frame_under_way_is_followed_to_its_end(first: bytes, second: bytes, cut: int) -> None:
    """The current frame is followed to its end, and not beyond."""
    followed = FrameTracker()
    begun = first[: min(cut, len(first) - 1)]
    followed.follow(begun)
    rest = first[len(begun) :]
    assert followed.follow(rest + second, to_boundary=True) == len(rest)
    assert followed.at_boundary


@pytest.mark.parametrize("masked", [False, True])
def test_a_stop_sends_a_close_frame(masked: bool) -> None:
    """A Close frame with 1001, masked if sent by a client."""
    said, followed = close_frame(masked=masked), FrameTracker()
    assert followed.follow(said) == len(said) == (8 if masked else 4)
    assert followed.at_boundary
    assert followed.closing
    code = said[2:] if not masked else bytes(byte ^ said[2 + index] for index, byte in enumerate(said[6:]))
    assert int.from_bytes(code, "big") == 1001
