"""What the launcher and the ranks tell each other through the run folder, and how their faults are read."""
