"""The maths of the networks: torch alone, no trainer in sight."""
