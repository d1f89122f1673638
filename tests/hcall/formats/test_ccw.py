"""What is told of subchannels, byte for byte as Linux's drivers/s390/cio lays it out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import ccw
from hcall.formats.ccw import Ccw, Identity, Status, Subchannel

U8, U16, U32 = st.integers(0, 255), st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 32) - 1)


def test_a_step_is_eight_bytes() -> None:
    step = Ccw(ccw.SENSE_ID, ccw.COMMAND_CHAIN | ccw.SLI, 40, 0x40001040)
    assert step.encode() == bytes.fromhex("e4 60 0028 40001040") and Ccw.decode(step.encode()) == step


def test_a_status_is_twelve() -> None:
    status = Status(0x00804007, 0x40001008, 0x0C, 0x40, 8)
    assert status.encode() == bytes.fromhex("00804007 40001008 0c 40 0008") and status.is_pending
    assert not Status(0x008040C0).is_pending


def test_what_is_known_of_a_subchannel_is_52() -> None:
    known = Subchannel(2, 0x11223344, Status(0x00804007, 8, 12, 0, 0))
    pmcw = "11223344 0081 0002 80 00 00 80 0000 ff 80 0000000000000000 00000000"
    assert known.encode() == bytes.fromhex(pmcw + "00804007 00000008 0c 00 0000" + "00" * 12)
    assert Subchannel.decode(known.encode()) == known
    without = Subchannel().encode()
    assert without[4:8] == bytes(4) and Subchannel.decode(without).device is None


def test_an_identity_has_the_handle_of_its_node_in_its_words() -> None:
    node = 0x0001_0000_0002_0304
    identity = Identity((0x1AF4, 0), (0x1044, 0), ccw.words(node))
    written = "ff 1af4 00 1044 00 00  48 00 0001  49 00 0000  4a 00 0002  4b 00 0304"
    assert identity.encode() == bytes.fromhex(written)
    assert Identity.decode(identity.encode()) == identity and identity.node == node
    for cut in range(8, 24):
        assert Identity.decode(identity.encode()[:cut]).node == 0
    assert Identity.decode(identity.encode()[:7]).device == (0x1044, 0)  # without any words it is 7 bytes


@pytest.mark.parametrize("data", ["", "ff 1af4 00 1044", "00 1af4 00 1044 00 00", "ff ffff 00 1044 00 00"])
def test_what_says_nothing_of_a_device_is_no_identity(data: str) -> None:
    with pytest.raises(ValueError, match=r"identity|nothing"):
        Identity.decode(bytes.fromhex(data))


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_length_that_is_none_is_told(size: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        Status.decode(bytes(size))
    with pytest.raises(ValueError, match="bytes"):
        Subchannel.decode(bytes(size))


@pytest.mark.parametrize("word", [-1, 0, 5, 0x20000, 0x80000, 0x90001, 1 << 32 | 0x10000])
def test_a_word_that_names_no_subchannel_is_told(word: int) -> None:
    with pytest.raises(ValueError, match="no subchannel"):
        ccw.place(word)


@given(st.integers(0, 3), U16, U32)
def test_words_tags_and_names(number_of_set: int, number: int, parameter: int) -> None:
    word = ccw.subchannel(number_of_set, number)
    assert ccw.place(word) == (number_of_set, number)
    assert ccw.tag(word, parameter).to_bytes(8, "big") == word.to_bytes(4, "big") + parameter.to_bytes(4, "big")
    assert ccw.name(number_of_set, number) == f"0.{number_of_set}.{number:04x}"


@given(st.builds(Status, U32, U32, U8, U8, U16), U16, U32)
def test_what_is_written_is_read(status: Status, device: int, parameter: int) -> None:
    assert Status.decode(status.encode()) == status
    known = Subchannel(device, parameter, status)
    assert Subchannel.decode(known.encode()) == known


@given(st.binary(max_size=80))
def test_whatever_bytes_there_are_they_are_read_or_refused(data: bytes) -> None:
    for kind in (Identity, Status, Subchannel):
        try:
            kind.decode(data)  # type: ignore[attr-defined]
        except ValueError as error:
            assert str(error)
