"""The parameters of a vuart's port, and the bits of its interrupt mask: what both ends have to call the same.

After the virtual UART of the PlayStation 3 hypervisor (Linux drivers/ps3/ps3-vuart.c).
"""

from __future__ import annotations

import enum


class Param(enum.IntEnum):
    """The parameters of a port; from RX_BUF_SIZE on they can only be read."""

    TX_TRIGGER = 0  # free bytes in the transmit buffer at which tx_ready is raised
    RX_TRIGGER = 1  # free bytes in the receive buffer at which, or below, rx_ready is raised
    INTERRUPT_MASK = 2  # enabled interrupts: TX, RX, DISCONNECT
    RX_BUF_SIZE = 3
    RX_BYTES = 4
    TX_BUF_SIZE = 5
    TX_BYTES = 6
    INTERRUPT_STATUS = 7  # conditions that are true, whether enabled or not


TX, RX, DISCONNECT = 1, 2, 4
