"""What hosts and guests do alike with Linux."""
