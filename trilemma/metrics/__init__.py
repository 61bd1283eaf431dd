"""What is measured of an SAE: one module for each kind of number."""
