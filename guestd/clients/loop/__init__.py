"""What the asyncio client has beside the guest: time for drivers, binds under way, answers that are claimed."""
