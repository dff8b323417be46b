"""Functions of our own, with tests, that become infilling tasks where no published ones are."""
