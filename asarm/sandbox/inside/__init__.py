"""What runs inside the sandboxes: it imports nothing but Python and itself."""
