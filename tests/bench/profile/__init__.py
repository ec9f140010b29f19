"""Where a step's time goes, and how near it is to what this machine can do."""
