"""What backings and the devices before them are made of: none of these stands behind a device by itself."""
