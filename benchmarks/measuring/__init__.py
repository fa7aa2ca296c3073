"""How cost is measured, on which machine, and the limits it is held against."""
