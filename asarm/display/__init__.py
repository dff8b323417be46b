"""What is shown: tables, texts in colours, figures, animations."""
