"""Products, attention and cross entropy, tuned: `plain` defines what they compute. And dropout."""
