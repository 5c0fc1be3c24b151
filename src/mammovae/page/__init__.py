"""What a person looks at: figures, reports, progress, and numbers in words."""
