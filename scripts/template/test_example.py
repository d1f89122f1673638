"""The device and its driver together, over a real socket: `python -m unittest`, or pytest."""

import unittest
from pathlib import Path

import guestd
import hostd
from hcall.errors import BadArgument

from example_driver import ExampleDriver

MACHINE = Path(__file__).with_name("machine.toml")


class ExampleTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_counts_and_interrupts(self) -> None:
        async with hostd.serve(MACHINE) as host, guestd.attach(host.socket, drivers=[ExampleDriver]) as guest:
            example = guest["example"]
            self.assertEqual(await example.count(3), 3)
            self.assertEqual(await example.finish_round(), 10)
            self.assertEqual(await example.finish_round(), 20)
            with self.assertRaisesRegex(BadArgument, "only goes up"):
                await example.count(-1)

    async def test_the_next_guest_finds_it_as_new(self) -> None:
        async with hostd.serve(MACHINE) as host:
            for _ in range(2):
                async with guestd.attach(host.socket, drivers=[ExampleDriver]) as guest:
                    self.assertEqual(await guest["example"].count(1), 1)
