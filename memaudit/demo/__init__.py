"""A scan with known answers: the shipped files, and checks of the instrument."""
