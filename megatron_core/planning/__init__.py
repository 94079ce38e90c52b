"""What a layout takes, before renting it: parameters, memory, traffic, time."""
