"""What toys with known concepts must come out at: exact values to measure against."""
