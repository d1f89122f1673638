"""The attacks, by what they go for; a file each."""
