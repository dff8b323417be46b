"""Products and attention, written for speed, with the backward passes that training needs."""
