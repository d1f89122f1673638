"""Who is attached, who comes back, and who is away too long."""
