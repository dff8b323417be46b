"""What a draft is made by: the learned head and its loss, and the drafters."""
